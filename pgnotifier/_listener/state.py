"""The listener's state, reported to the log and to `on_state` when it changes."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

from pgnotifier._runtime.hooks import Hook
from pgnotifier._runtime.log_records import LogThrottle, about, duration
from pgnotifier.status import OnState, State, StateChange

logger = logging.getLogger("pgnotifier.states")


class StateReport(Hook):
    """The current state, which is logged and passed to `on_state` when it changes.

    The reader alone changes it; any thread may read it.
    """

    def __init__(self, on_state: OnState | None) -> None:
        """Begin in the state `stopped`.

        Args:
            on_state: The user's hook, if there is one.
        """
        super().__init__("on_state", on_state)
        self._warn = LogThrottle(logger, others=logging.INFO)
        self._has_warned = False  # of the current loss

    def renew(self) -> None:
        """Return to `stopped`, as in a forked child; the parent still reports its own changes."""
        super().renew()
        self.current = StateChange("stopped", datetime.now(UTC))
        self._begun_at = monotonic()  # the wall clock may be set meanwhile

    def become(self, state: State, why: str | None = None, detail: str = "") -> None:
        """Change the state; do nothing if it is the current one.

        Args:
            state: The new state.
            why: Why the listener is disconnected.
            detail: What to add to the log message.
        """
        before, now = self.current, datetime.now(UTC)
        if before.state == state:
            return
        self.current = StateChange(state, now, why)
        lasted, self._begun_at = self._lasted, monotonic()
        if state == "disconnected":
            self._has_warned = self._warn(
                "disconnected: %s", why, extra=about("disconnected", why=why)
            )
        elif before.state == "disconnected" and state != "stopped":
            logger.log(
                # The level of the record of the loss, so that whoever was alerted sees the end.
                logging.WARNING if self._has_warned else logging.INFO,
                "%s%s again, after %s",
                state,
                detail,
                duration(lasted),
                extra=about(state, since=before.since, until=now, why=before.why),
            )
        else:
            # Without a first connection, `start()` raises: no record is needed.
            has_failed = (before.state, state) == ("starting", "stopped")
            quiet = state == "starting" or has_failed
            level = logging.DEBUG if quiet else logging.INFO
            logger.log(level, "%s%s", state, detail, extra=about(state))
        self.call(self.current)

    def explain(self, why: str) -> None:
        """Note why there is still no connection: the latest reason helps more than the first."""
        self.current = replace(self.current, why=why)
        if self._warn.is_due:
            extra = about("still_disconnected", since=self.current.since, why=why)
            state = "trying to connect" if self.current.state == "starting" else "disconnected"
            lasted = f" for {duration(self._lasted)}" if self._lasted >= 1 else ""
            self._warn("%s%s: %s", state, lasted, why, extra=extra)
            self._has_warned = True

    @property
    def _lasted(self) -> float:
        """For how many seconds the current state has lasted."""
        return monotonic() - self._begun_at
