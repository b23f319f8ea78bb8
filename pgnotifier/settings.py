"""Define every setting of a listener once: its default, unit, limits, and how to read it from text.

A setting can be given as an argument of `Notifier`, in Celery as `pgnotifier_heartbeat`, in Django
as `PGNOTIFIER["HEARTBEAT"]`, to commands as `--drain-timeout`, and in the environment as
`PGNOTIFIER_HEARTBEAT`. All of these are checked with the table in this file.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pgnotifier._runtime.redaction import show
from pgnotifier.errors import ArgumentTypeError, ConfigurationError
from pgnotifier.payload import MAX_PAYLOAD_BYTES

Overflow = Literal["block", "drop_oldest", "drop_newest"]
BUFFER_BYTES = 64 * 1024 * 1024
"""How many bytes of payloads may wait by default."""

DAY = 86_400
CENTURY = 36_525 * DAY
"""Beyond it, dates overflow."""
_SHOWN: dict[float, str] = {DAY: f"{DAY} (a day)", CENTURY: f"{CENTURY} (a century)"}

REQUIRED: Any = object()
"""The default of a setting that always has to be given."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        kind: The type of its values, as a text that continues "must be".
        is_kind: Returns whether a value has that type.
        default: The value if none is given. If it is None ("not set"), None may also be given.
        limits: The limits of its values, as a text that continues "must be".
        is_within: Returns whether a value of the right type is within the limits.
        parse: Reads a value from a text, such as an environment variable. May raise ValueError.
        is_secret: Whether a value may contain a password. Errors then show only its type.
        metavar: The placeholder for a value in the help of commands.
        help: The help text of commands, without the default.
    """

    kind: str
    is_kind: Callable[[Any], bool]
    default: Any = None
    limits: str = ""
    is_within: Callable[[Any], bool] = lambda _: True
    parse: Callable[[str], Any] = str
    is_secret: bool = False
    metavar: str = ""
    help: str = ""

    def find_expected(self, value: Any) -> str | None:
        """Return what a value must be instead, or None if it is valid."""
        if value is None and self.default is None:
            return None
        if not self.is_kind(value):
            return self.kind
        return None if self.is_within(value) else self.limits

    def find_problem(self, value: Any) -> str | None:
        """Return the problem with a value as "must be …, not …", or None if it is valid."""
        if (expected := self.find_expected(value)) is None:
            return None
        return f"must be {expected}, not {type(value).__name__ if self.is_secret else show(value)}"

    def check(self, shown: str, value: Any) -> None:
        """Check a value.

        Args:
            shown: The name that the user knows, such as `PGNOTIFIER['HEARTBEAT']`.
            value: The value.

        Raises:
            ArgumentTypeError: The value has another type.
            ConfigurationError: The value has the right type, but is outside of the limits.
        """
        problem = self.find_problem(value)
        if problem is not None:
            raise (ConfigurationError if self.is_kind(value) else ArgumentTypeError)(
                f"{shown} {problem}"
            )

    def read(self, shown: str, text: str) -> Any:
        """Return the value that a text stands for. If it can't be read, the error doesn't show it.

        Raises:
            ArgumentTypeError: The value has another type.
            ConfigurationError: The text can't be read, or the value is outside of the limits.
        """
        try:
            value = self.parse(text)
        except ValueError:
            raise ConfigurationError(f"{shown} must be {self.kind}") from None
        self.check(shown, value)
        return value

    def explain(self) -> str:
        """Return two sentences: what a value must be, and the default."""
        limits = f", {self.limits}" if self.limits and self.limits not in self.kind else ""
        default = "none" if self.default is None else repr(self.default)
        return f"It is {self.kind}{limits}. Default: {default}."


def is_whole(value: Any) -> bool:
    """Return whether a value is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Return whether a value is a str."""
    return isinstance(value, str)


def is_filled(value: Any) -> bool:
    """Return whether a value is a str that isn't empty."""
    return isinstance(value, str) and value != ""


def is_number(value: Any) -> bool:
    """Return whether a value is an int or a float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def seconds(
    default: Any = REQUIRED, most: float = float("inf"), *, allows_zero: bool = False, **others: Any
) -> Setting:
    """Return a setting that is a number of seconds. NaN is never within its limits.

    Args:
        default: The value if none is given.
        most: The longest duration.
        allows_zero: Whether 0 is valid.
        others: More attributes of the setting.
    """
    least = "at least 0" if allows_zero else "above 0"
    return Setting(
        "a number of seconds",
        is_number,
        default,
        f"{least} and at most {_SHOWN[most]}" if most in _SHOWN else least,
        lambda value: value <= most and (value >= 0 if allows_zero else value > 0),
        float,
        **others,
    )


def whole_number(least: int, default: Any = REQUIRED, why: str = "") -> Setting:
    """Return a setting that is an integer.

    Args:
        least: The smallest valid value.
        default: The value if none is given.
        why: What follows `least` in errors.
    """
    return Setting(
        "an integer", is_whole, default, f"at least {least}{why}", lambda value: value >= least, int
    )


def switch(*, default: bool) -> Setting:
    """Return a setting that is on or off.

    Args:
        default: Its value if none is given.
    """
    return Setting(
        "True or False", lambda value: isinstance(value, bool), default, parse=_read_switch
    )


def patterns() -> Setting:
    """Return a setting that is a list of names, or of patterns such as `shop.tasks.*`."""
    return Setting(
        "a list of names or patterns, such as ['shop.tasks.*']",
        lambda value: (
            isinstance(value, list | tuple | set | frozenset) and all(map(is_filled, value))
        ),
        parse=lambda text: [part.strip() for part in text.split(",") if part.strip()],
    )


def _read_switch(text: str) -> bool:
    if (value := _SWITCHES.get(text.strip().lower())) is None:
        raise ValueError(text)
    return value


_SWITCHES = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_OVERFLOW = "'block', 'drop_oldest' or 'drop_newest'"

SETTINGS: Mapping[str, Setting] = {
    "standby": Setting("a name", is_text, None, "a name, or None", is_filled),
    "buffer_size": whole_number(1, 100_000),
    "buffer_bytes": whole_number(MAX_PAYLOAD_BYTES, BUFFER_BYTES, " (one payload)"),
    "overflow": Setting(
        _OVERFLOW, is_text, "block", _OVERFLOW, lambda value: value in get_args(Overflow)
    ),
    "heartbeat": seconds(15.0, DAY),
    "heartbeat_timeout": seconds(5.0, DAY),
    "drain_timeout": seconds(
        30.0,
        allows_zero=True,
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
        help="The address to open that port on; 0.0.0.0 or :: for all addresses.",
    ),
    "answers": switch(default=True),
    "remote_commands": switch(default=False),
    "wait": Setting(
        "True, False or a number of seconds",
        lambda value: isinstance(value, bool) or is_number(value),
        None,
        "True, False or a number of seconds, at least 0",
        lambda value: 0 <= value < float("inf"),
    ),
}

OUTBOX_SETTINGS: Mapping[str, Setting] = {
    "outbox_max_age": seconds(None, CENTURY),
    "outbox_allow": patterns(),
}
"""Those of the relay of an outbox for Celery, which aren't arguments of `Notifier`."""


def check_settings(**given: Any) -> None:
    """Check settings, given by their names as arguments of `Notifier`.

    Raises:
        ArgumentTypeError: A value has another type.
        ConfigurationError: A value is outside of its limits.
    """
    for name, value in given.items():
        SETTINGS[name].check(name, value)
