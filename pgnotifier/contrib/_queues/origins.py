"""Describe the entry of the log that a task or job was made from."""

from typing import Any

from pgnotifier.notification import Entry, Notification


def describe_entry(arrived: Notification) -> dict[str, Any]:
    """Return the number, key, time and attempt of an entry; nothing for other notifications.

    For gathered ones, these are those of the latest.
    """
    if not isinstance(arrived, Entry):
        return {}
    found: dict[str, Any] = {"id": arrived.id, "attempt": arrived.attempt}
    if arrived.key is not None:
        found["key"] = arrived.key
    if arrived.published_at is not None:
        found["published_at"] = arrived.published_at.isoformat()
    return found
