"""Describe the log entry that a task or job was made from."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from pgnotifier.notification import Entry, Notification

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


def show_time(at: datetime) -> str:
    """Return an aware time as `isoformat()` does, in a quarter of the time if it is in UTC."""
    if at.utcoffset() != _UTC_OFFSET:
        return at.isoformat()
    return f"{_encode_time(at)[1:-2].decode()}+00:00"
