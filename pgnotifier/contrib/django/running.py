"""Call the receiver of a task in a worker."""

import inspect
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any

from asgiref.sync import async_to_sync

from pgnotifier.contrib.django.changes import find_model, restore_values
from pgnotifier.contrib.django.known import CHANNELS
from pgnotifier.contrib.django.stale import close_stale_connections
from pgnotifier.errors import PayloadEncodingError, PgNotifierError
from pgnotifier.notification import Notification
from pgnotifier.payload import encode_exactly


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
        raw, model = _write(payload), find_model(payload)
        restore_values(model, payload)
        named |= {
            "sender": found if model is None else model,
            "payload": payload,
            "pid": pid,
            "notification": Notification(channel, payload, raw, pid, datetime.now(UTC)),
        }
    close_stale_connections()
    try:
        call = async_to_sync(fn) if inspect.iscoroutinefunction(fn) else fn
        return call(**named)
    finally:
        close_stale_connections()


def _write(payload: Any) -> str:
    """Return a payload as text. The text of a batch may not decode to the same value."""
    try:
        return encode_exactly(payload)
    except PayloadEncodingError:
        return repr(payload)
