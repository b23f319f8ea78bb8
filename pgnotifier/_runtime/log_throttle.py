"""Log throttling: what may happen a thousand times a second is a WARNING once a minute."""

import logging
from collections.abc import Mapping
from time import monotonic

QUIET = 60.0
"""Seconds after a WARNING in which further incidents are logged at a lower level."""


class LogThrottle:
    """Logs one kind of incident: one WARNING a minute, and the others at a lower level."""

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
