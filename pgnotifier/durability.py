"""The options of `subscribe(durable=True)`, which reads a log in the database, and their checks."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from pgnotifier.errors import ArgumentTypeError, ConfigurationError

Start = Literal["now", "oldest"] | datetime
MAX_ATTEMPTS = 5
"""How many times an entry is tried by default."""
FAILURES = ("dead_letter", "stop")
MAX_ID_BYTES = 1024
"""The longest name of a subscription in the log."""
MAX_INTEGER = 2**63 - 1
"""The highest number that the log can store."""


@dataclass(frozen=True, slots=True)
class MaxLag:
    """How far a durable subscription may fall behind. Older entries are dropped.

        MaxLag(age=timedelta(days=7), bytes=10 * 1024**3)

    It applies whether or not any process reads the subscription. If several limits are given, the
    first one that is reached counts.

    Attributes:
        entries: How many entries may follow its position, on any channel.
        bytes: How many bytes the log may have after its position, with indexes.
        age: How long ago an entry may have been published.
    """

    entries: int | None = None
    bytes: int | None = None
    age: timedelta | None = None

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ArgumentTypeError: One has the wrong type.
            ConfigurationError: One is too low, or there is none.
        """
        for name, value in (("entries", self.entries), ("bytes", self.bytes)):
            if value is not None and type(value) is not int:
                raise ArgumentTypeError(f"MaxLag: {name} must be an integer, not {value!r:.80}")
            if value is not None and not 1 <= value <= MAX_INTEGER:
                raise ConfigurationError(
                    f"MaxLag: {name} must be from 1 to {MAX_INTEGER}, not {value}"
                )
        if self.age is not None and not isinstance(self.age, timedelta):
            raise ArgumentTypeError(f"MaxLag: age must be a timedelta, not {self.age!r:.80}")
        if self.age is not None and self.age <= timedelta():
            raise ConfigurationError(f"MaxLag: age must be positive, not {self.age}")
        if self.entries is None and self.bytes is None and self.age is None:
            raise ConfigurationError("MaxLag needs entries, bytes or age")

    def __str__(self) -> str:
        given = {"entries": self.entries, "bytes": self.bytes, "age": self.age}
        return ", ".join(f"{name} {one}" for name, one in given.items() if one is not None)


@dataclass(frozen=True, slots=True)
class Durability:
    """How a durable subscription reads the log.

    Attributes:
        start: Where it begins if it has no position in the log yet: "now", "oldest", or a time.
        max_attempts: How many times an entry is tried before it becomes a dead letter.
        on_failure: "dead_letter", or "stop": then nothing later is delivered until it succeeds.
        max_lag: How far it may be behind; None for no limit.
        max_age: How long an entry may wait before the notifier counts as not ready; None for no
            limit.
    """

    start: Start = "now"
    max_attempts: int = MAX_ATTEMPTS
    on_failure: str = FAILURES[0]
    max_lag: MaxLag | None = None
    max_age: timedelta | None = None

    def to_dict(self) -> Mapping[str, Any]:
        """Return the options as JSON-able values."""
        start = self.start.isoformat() if isinstance(self.start, datetime) else self.start
        given = {"start": start, "max_attempts": self.max_attempts, "on_failure": self.on_failure}
        limits = {"max_lag": self.max_lag, "max_age": self.max_age}
        return given | {name: str(one) for name, one in limits.items() if one is not None}


def check_durability(
    id: Hashable,
    durable: object,
    start: Any,
    max_attempts: Any,
    on_failure: Any,
    on_gap: object,
    max_lag: Any = None,
    max_age: Any = None,
) -> Durability | None:
    """Return the options of a durable subscription; None if it isn't durable.

    Args:
        id: The subscription's id, which is its name in the log.
        durable: Whether it is durable.
        start: "now", "oldest" or an aware datetime; None for the default.
        max_attempts: At least 1; None for the default.
        on_failure: "dead_letter" or "stop"; None for the default.
        on_gap: What gets gaps. A durable subscription has none without `max_lag`.
        max_lag: A `MaxLag`; None for the default.
        max_age: A timedelta; None for no limit.

    Raises:
        ArgumentTypeError: An option has the wrong type, or the id isn't a str.
        ConfigurationError: A value is out of range, or the options don't go together.
    """
    what = f"subscription {id!r:.80}"
    given = {"start": start, "max_attempts": max_attempts, "on_failure": on_failure}
    given |= {"max_lag": max_lag, "max_age": max_age}
    if not isinstance(durable, bool):
        raise ArgumentTypeError(f"{what}: durable must be True or False, not {durable!r:.80}")
    if not durable:
        for name, value in given.items():
            if value is not None:
                raise ConfigurationError(f"{what}: {name} needs durable=True")
        return None
    check_name(id)
    if max_lag is not None and not isinstance(max_lag, MaxLag):
        raise ArgumentTypeError(
            f"{what}: max_lag must be a MaxLag, such as MaxLag(age=timedelta(days=7)), "
            f"not {max_lag!r:.80}"
        )
    if on_gap is not None and max_lag is None:
        raise ConfigurationError(
            f"{what}: a durable subscription misses nothing, so it takes no on_gap without max_lag"
        )
    if start is not None:
        _check_start(what, start)
    if max_age is not None:
        check_max_age(what, max_age)
    if max_attempts is not None:
        if not isinstance(max_attempts, int) or isinstance(max_attempts, bool):
            raise ArgumentTypeError(
                f"{what}: max_attempts must be an integer, not {max_attempts!r:.80}"
            )
        if max_attempts < 1:
            raise ConfigurationError(f"{what}: max_attempts must be at least 1, not {max_attempts}")
    if on_failure is not None and on_failure not in FAILURES:
        raise ConfigurationError(
            f"{what}: on_failure must be 'dead_letter' or 'stop', not {on_failure!r:.80}"
        )
    return Durability(**{name: value for name, value in given.items() if value is not None})


def check_max_age(what: str, max_age: object) -> timedelta:
    """Return the time that an entry may wait, if it is valid.

    Args:
        what: The name of what has the limit, for errors.
        max_age: A positive timedelta.

    Raises:
        ArgumentTypeError: It isn't a timedelta.
        ConfigurationError: It isn't positive.
    """
    if not isinstance(max_age, timedelta):
        raise ArgumentTypeError(
            f"{what}: max_age must be a timedelta, such as timedelta(minutes=5), "
            f"not {max_age!r:.80}"
        )
    if max_age <= timedelta():
        raise ConfigurationError(f"{what}: max_age must be positive, not {max_age}")
    return max_age


def take_option(on_failure: Any, durable: object, options: dict[str, Any]) -> Any:
    """Return `on_failure` if it is the subscription's own option; otherwise None.

    RQ's dispatcher has an option of that name, too. A value meant for it is added to `options`.

    Args:
        on_failure: What was given; None if nothing was.
        durable: Whether the subscription is durable. Then a str isn't meant for the dispatcher.
        options: The dispatcher's options.
    """
    is_ours = isinstance(on_failure, str) if durable else on_failure in FAILURES
    if on_failure is None or is_ours:
        return on_failure
    options["on_failure"] = on_failure
    return None


def check_name(id: object) -> str:
    """Return the id of a durable subscription, if the log can store it as its name.

    Raises:
        ArgumentTypeError: It isn't a str.
        ConfigurationError: It is empty or too long, or has characters that PostgreSQL refuses.
    """
    if not isinstance(id, str):
        raise ArgumentTypeError(
            f"the id of a durable subscription is its name in the database, so it must be a str, "
            f"not {type(id).__name__}: {id!r:.80}"
        )
    try:
        size = len(id.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_ID_BYTES or "\0" in id:
        raise ConfigurationError(
            f"the id of a durable subscription must be valid Unicode without NUL, of 1 to "
            f"{MAX_ID_BYTES} bytes, not {id!r:.80}"
        )
    return id


def check_place(id: Hashable, to: Any) -> Start | int:
    """Return a place in the log to seek to, if it is valid.

    Raises:
        ArgumentTypeError: It isn't a str, a time or an entry's number.
        ConfigurationError: It is a str other than "now" and "oldest", or a time without a time
            zone.
    """
    if type(to) is int:
        return to
    _check_start(f"subscription {id!r:.80}", to)
    return cast("Start", to)


def _check_start(what: str, start: Any) -> None:
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ConfigurationError(
                f"{what}: a time must have a time zone: datetime.now(UTC), for example"
            )
    elif not isinstance(start, str):
        raise ArgumentTypeError(
            f"{what}: a place in the log is 'now', 'oldest' or a datetime, not {start!r:.80}"
        )
    elif start not in ("now", "oldest"):
        raise ConfigurationError(
            f"{what}: a place in the log is 'now', 'oldest' or a datetime, not {start!r:.80}"
        )
