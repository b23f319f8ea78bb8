"""Log records: the fields that they have besides their text, and how often they are warnings.

Each has `pgnotifier_event`, which names what happened, and the fields that docs/logging.md lists.
"""

import logging
from collections.abc import Mapping
from time import monotonic

QUIET = 60.0
"""Seconds after a WARNING in which further incidents are logged at a lower level."""


def about(event: str, **fields: object) -> dict[str, object]:
    """Return the `extra` of a record.

    Args:
        event: What happened.
        fields: The details. None is left out.
    """
    known = {name: value for name, value in fields.items() if value is not None}
    return {"pgnotifier_event": event, **known}


def duration(seconds: float) -> str:
    """Return a duration in words: `under 0.1 s`, `1.5 s`, `75 s`, `40 min`, `30 h`."""
    if seconds < 0.05:
        return "under 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"


def percent(fraction: float) -> str:
    """Return a fraction in percent: `under 0.1 %`, `2.5 %`, `100 %`."""
    if fraction < 0.0005:
        return "under 0.1 %"
    return f"{100 * fraction:.1f} %" if fraction < 0.0995 else f"{100 * fraction:.0f} %"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 channel`, `2 channels`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


class LogThrottle:
    """Logs one kind of incident: one WARNING a minute, and the others at a lower level.

    It may happen a thousand times a second.
    """

    def __init__(self, logger: logging.Logger, others: int = logging.DEBUG) -> None:
        """Begin without an incident.

        Args:
            logger: Where to log.
            others: The level of those that come within a minute of a WARNING.
        """
        self._logger = logger
        self._others = others
        self._quiet_until = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the next one is a WARNING."""
        return monotonic() >= self._quiet_until

    def __call__(
        self, message: str, *args: object, extra: Mapping[str, object] | None = None
    ) -> bool:
        """Log one; return whether it was a WARNING."""
        level = logging.WARNING if self.is_due else self._others
        if level == logging.WARNING:
            self._quiet_until = monotonic() + QUIET
        self._logger.log(level, message, *args, extra=extra)
        return level == logging.WARNING
