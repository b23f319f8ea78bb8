"""The listener's state, reported to the log and to `on_state` when it changes."""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic

from pgnotifier._runtime.hooks import Hook
from pgnotifier._runtime.log_records import about, duration
from pgnotifier._runtime.log_throttle import LogThrottle
from pgnotifier.status import OnState, State, StateChange

logger = logging.getLogger("pgnotifier.states")


class StateReport:
    """The state at the moment, told to the log and to `on_state` when it changes.

    The reader alone changes it; any thread may read it.
    """

    def __init__(self, on_state: OnState | None) -> None:
        self.current = StateChange("stopped", datetime.now(UTC))
        self._hook = Hook("on_state", on_state)
        self._warn = LogThrottle(logger, others=logging.INFO)
        self._has_warned = False  # of the loss that lasts
        self._begun_at = monotonic()  # as the wall clock may be set meanwhile

    def become(self, state: State, why: str | None = None, detail: str = "") -> None:
        """Take on a state; a no-op if it is that of now.

        Args:
            state: The state.
            why: What made it disconnected.
            detail: What the log is to say besides.
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
                # As losing it was, so that whoever was called knows that it is over.
                logging.WARNING if self._has_warned else logging.INFO,
                "%s%s again, after %s",
                state,
                detail,
                duration(lasted),
                extra=about(state, since=before.since, until=now, why=before.why),
            )
        else:
            # That there is no first connection is told by who wanted it.
            ended_unheard = (before.state, state) == ("starting", "stopped")
            quiet = state == "starting" or ended_unheard
            level = logging.DEBUG if quiet else logging.INFO
            logger.log(level, "%s%s", state, detail, extra=about(state))
        self._hook.call(self.current)

    def explain(self, why: str) -> None:
        """Note why it still has no connection: the latest reason helps more than the first."""
        self.current = replace(self.current, why=why)
        if self._warn.is_due:
            extra = about("still_disconnected", since=self.current.since, why=why)
            state = "trying to connect" if self.current.state == "starting" else "disconnected"
            lasted = f" for {duration(self._lasted)}" if self._lasted >= 1 else ""  # else at once
            self._warn("%s%s: %s", state, lasted, why, extra=extra)
            self._has_warned = True

    @property
    def _lasted(self) -> float:
        """For how many seconds the state of now has lasted."""
        return monotonic() - self._begun_at

    @property
    def is_locked_here(self) -> bool:
        """Whether the calling code has interrupted what holds the lock of its hook."""
        return self._hook.is_locked_here

    @property
    def is_stuck(self) -> bool:
        """Whether `resume` is to be called until a thread for `on_state` can be started."""
        return self._hook.is_stuck

    def resume(self) -> None:
        """Try to start the thread that `on_state` waits for, if there is none."""
        self._hook.resume()

    def settle(self, timeout: float) -> None:
        """Wait until `on_state` has been told of all, for so many seconds at most."""
        self._hook.settle(timeout)

    def forget_in_child(self) -> None:
        """Be stopped, in a forked child; what is still to be told is told by the parent."""
        self.current = StateChange("stopped", datetime.now(UTC))
        self._begun_at = monotonic()
