"""Call the receiver of a task in a worker."""

import inspect
from collections.abc import Hashable
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import msgspec
from asgiref.sync import async_to_sync

from pgnotifier.contrib.django.changes import find_model, restore_values
from pgnotifier.contrib.django.known import CHANNELS
from pgnotifier.contrib.django.stale import close_stale_connections
from pgnotifier.current import called_for
from pgnotifier.dispatchers.in_workers import current_entry
from pgnotifier.dispatchers.origins import write
from pgnotifier.errors import PgNotifierError
from pgnotifier.notification import Notification


class ReceiverNotFoundError(PgNotifierError, LookupError):
    """A worker has no receiver with the id of a task: it runs other code than the listener."""


def run(id: Hashable, channel: str, payload: Any, pid: int) -> Any:
    """Call the receiver that was connected by `Channel.task`, and return its result.

    Raises:
        ReceiverNotFoundError: There is no such receiver in this process.
    """
    found = CHANNELS.get(channel)
    # A task may have the id of another one's on_gap. No server process has the pid 0.
    gap = found is not None and pid == 0 and id in found.gap_tasks
    fn = None if found is None else (found.gap_tasks if gap else found.tasks).get(id)
    if found is None or fn is None:
        raise ReceiverNotFoundError(
            f"there is no task {id!r} on channel {channel!r} in this worker; define it in the "
            "module `notifications` of an app that is installed in the worker as well"
        )
    named: dict[str, Any] = {"signal": found, "channel": channel}
    if gap:
        named |= {"sender": found, "gap": payload}
    else:
        arrived, model = _find_notification(channel, payload, pid), find_model(payload)
        restore_values(model, payload)
        named |= {
            "sender": found if model is None else model,
            "payload": payload,
            "pid": pid,
            "notification": arrived,
        }
    close_stale_connections()
    try:
        call = async_to_sync(fn) if inspect.iscoroutinefunction(fn) else fn
        with nullcontext() if gap else called_for(named["notification"]):
            return call(**named)
    finally:
        close_stale_connections()


def _find_notification(channel: str, payload: Any, pid: int) -> Notification:
    """Return the entry that the task or job was made from; for others, a notification made here."""
    entry = current_entry()
    if entry is None or entry.channel != channel:
        return Notification(channel, payload, write(payload), pid, datetime.now(UTC))
    return entry if entry.payload is payload else msgspec.structs.replace(entry, payload=payload)
