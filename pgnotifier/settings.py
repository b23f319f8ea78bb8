"""Every setting of a listener, once: its default, what it may be, and how it is read from a text.

`Notifier` takes them as arguments, Celery as `pgnotifier_heartbeat`, Django as
`PGNOTIFIER["HEARTBEAT"]`, commands as `--drain-timeout`, and the environment as
`PGNOTIFIER_HEARTBEAT`. All of these are made from, and checked against, the table in this file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pgnotifier._connection.publisher import MAX_PAYLOAD_BYTES
from pgnotifier._delivery.buffer import BUFFER_BYTES
from pgnotifier._runtime.redaction import show
from pgnotifier._runtime.seconds import DAY, Seconds, is_number
from pgnotifier.errors import ArgumentTypeError, ConfigurationError

OVERFLOW = ("block", "drop_oldest", "drop_newest")
OVERFLOW_SHOWN = "'block', 'drop_oldest' or 'drop_newest'"


def _always(_: Any) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        kind: What a value has to be, as the end of "must be".
        is_kind: Whether a value is of that kind.
        default: The value if none is given. None stands for "not set", and is always allowed then.
        limits: What a value of that kind has to be besides, as the end of "must be".
        is_within: Whether a value of that kind is within these limits.
        parse: Reads a value from a text, such as an environment variable's. Raises a ValueError.
        is_secret: Whether a value may hold a password, so that errors show its type alone.
        metavar: What stands for a value in the help of commands.
        help: What commands say of it; without the default.
    """

    kind: str
    is_kind: Callable[[Any], bool]
    default: Any = None
    limits: str = ""
    is_within: Callable[[Any], bool] = _always
    parse: Callable[[str], Any] = str
    is_secret: bool = False
    metavar: str = ""
    help: str = ""

    def find_problem(self, value: Any) -> str | None:
        """Return what is wrong with a value, as "must be …, not …"; None if nothing is."""
        if value is None and self.default is None:
            return None
        if not self.is_kind(value):
            return f"must be {self.kind}, not {self._show(value)}"
        if not self.is_within(value):
            return f"must be {self.limits}, not {self._show(value)}"
        return None

    def check(self, shown: str, value: Any) -> None:
        """Check a value.

        Args:
            shown: The setting as the user knows it: `PGNOTIFIER['HEARTBEAT']`, say.
            value: The value.

        Raises:
            ArgumentTypeError: It is of another kind.
            ConfigurationError: It is of that kind, and outside of the limits.
        """
        problem = self.find_problem(value)
        if problem is not None:
            raise (ConfigurationError if self.is_kind(value) else ArgumentTypeError)(
                f"{shown} {problem}"
            )

    def read(self, shown: str, text: str) -> Any:
        """Return the value that a text stands for, which no error shows: it may be a secret.

        Raises:
            ArgumentTypeError: It is of another kind.
            ConfigurationError: It can't be read, or is outside of the limits.
        """
        try:
            value = self.parse(text)
        except ValueError:
            raise ConfigurationError(f"{shown} must be {self.kind}") from None
        self.check(shown, value)
        return value

    def explain(self) -> str:
        """Return what a value has to be, and the default, in one sentence each."""
        limits = f", {self.limits}" if self.limits and self.limits not in self.kind else ""
        default = "none" if self.default is None else repr(self.default)
        return f"It is {self.kind}{limits}. Default: {default}."

    def _show(self, value: Any) -> str:
        return type(value).__name__ if self.is_secret else show(value)


def is_whole(value: Any) -> bool:
    """Return whether a value is an int, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Return whether a value is a str."""
    return isinstance(value, str)


def is_filled(value: Any) -> bool:
    """Return whether a value is a str that isn't empty."""
    return isinstance(value, str) and value != ""


def _seconds(default: float, allowed: Seconds, *, metavar: str = "", help: str = "") -> Setting:
    return Setting(
        allowed.kind,
        is_number,
        default,
        allowed.limits,
        allowed.includes,
        float,
        metavar=metavar,
        help=help,
    )


def _count(default: int, least: int, why: str = "") -> Setting:
    return Setting(
        "an integer", is_whole, default, f"at least {least}{why}", lambda value: value >= least, int
    )


SETTINGS: Mapping[str, Setting] = {
    "standby": Setting("a name", is_text, None, "a name, or None", is_filled),
    "buffer_size": _count(100_000, 1),
    "buffer_bytes": _count(BUFFER_BYTES, MAX_PAYLOAD_BYTES, " (one payload)"),
    "overflow": Setting(
        OVERFLOW_SHOWN, is_text, OVERFLOW[0], OVERFLOW_SHOWN, lambda value: value in OVERFLOW
    ),
    "heartbeat": _seconds(15.0, Seconds(DAY)),
    "heartbeat_timeout": _seconds(5.0, Seconds(DAY)),
    "drain_timeout": _seconds(
        30.0,
        Seconds(allows_zero=True),
        metavar="SECONDS",
        help="How long to go on delivering what was received, after SIGTERM or SIGINT.",
    ),
    "health_port": Setting(
        "a port, an integer",
        is_whole,
        None,
        "from 1 to 65535",
        lambda value: 0 < value < 65536,
        int,
        metavar="PORT",
        help="Answer /healthz and /readyz on this port, over HTTP.",
    ),
    "health_host": Setting(
        "an address",
        is_text,
        None,
        "an address: '127.0.0.1', or '0.0.0.0' for all",
        is_filled,
        metavar="ADDRESS",
        help="The address of that port; 0.0.0.0 or :: for all addresses.",
    ),
    "wait": Setting(
        "True, False or a number of seconds",
        lambda value: isinstance(value, bool) or is_number(value),
        None,
        "True, False or a number of seconds, at least 0",
        lambda value: 0 <= value < float("inf"),
    ),
}


def check_settings(**given: Any) -> None:
    """Check values by their names as arguments of `Notifier`.

    Raises:
        ArgumentTypeError: One is of another type.
        ConfigurationError: One is outside of its limits.
    """
    for name, value in given.items():
        SETTINGS[name].check(name, value)
