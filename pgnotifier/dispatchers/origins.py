"""Describe the log entry that a task or job was made from, and read such a description."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from pgnotifier.errors import PayloadEncodingError
from pgnotifier.notification import Entry, Notification
from pgnotifier.payload import encode_exactly

ORIGIN = "pgnotifier"
"""The header of a task, or the part of a job's `meta`, that has the description."""

_encode_time = msgspec.json.Encoder().encode
_UTC_OFFSET = timedelta()


def describe_entry(arrived: Notification) -> dict[str, Any]:
    """Return the number, key, time and attempt of an entry; nothing for other notifications.

    For gathered notifications, these are the values of the latest one.
    """
    if not isinstance(arrived, Entry):
        return {}
    found: dict[str, Any] = {"id": arrived.id, "attempt": arrived.attempt}
    if arrived.key is not None:
        found["key"] = arrived.key
    if arrived.published_at is not None:
        found["published_at"] = show_time(arrived.published_at)
    return found


def describe_receipt(arrived: Notification) -> dict[str, Any]:
    """Return what `describe_entry` does, with the time of receipt, and the count if gathered."""
    found = describe_entry(arrived)
    if found:
        found["received_at"] = show_time(arrived.received_at)
        if arrived.count > 1:
            found["count"] = arrived.count
    return found


def read_entry(description: object, channel: str, payload: Any, pid: int) -> Entry | None:
    """Return the entry that was described; None if it is something else.

    Args:
        description: What was described. Anybody may have written it.
        channel: The channel.
        payload: The payload. The text of the entry is made of it.
        pid: The pid.
    """
    if not isinstance(description, Mapping) or type(number := description.get("id")) is not int:
        return None
    get = description.get
    key, count, attempt = get("key"), get("count"), get("attempt")
    return Entry(
        channel,
        payload,
        write(payload),
        pid,
        _read_time(get("received_at")) or datetime.now(UTC),
        count if type(count) is int else 1,
        id=number,
        key=key if isinstance(key, str) else None,
        published_at=_read_time(get("published_at")),
        attempt=attempt if type(attempt) is int else 1,
    )


def write(payload: Any) -> str:
    """Return a payload as text. The text of a batch may not decode to the same value."""
    try:
        return encode_exactly(payload)
    except PayloadEncodingError:
        return repr(payload)


def show_time(at: datetime) -> str:
    """Return an aware time as `isoformat()` does, in a quarter of the time if it is in UTC."""
    if at.utcoffset() != _UTC_OFFSET:
        return at.isoformat()
    return f"{_encode_time(at)[1:-2].decode()}+00:00"


def _read_time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
