"""Running: what a worker calls for a notification."""

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
    """A worker has no receiver of that id: it runs other code than the listener."""


def run(id: Hashable, channel: str, payload: Any, pid: int) -> Any:
    """Call the receiver that `Channel.task` has connected, and return what it returns.

    Raises:
        ReceiverNotFoundError: There is none.
    """
    found = CHANNELS.get(channel)
    gap = found is not None and id in found.gap_tasks
    fn = None if found is None else (found.gap_tasks if gap else found.tasks).get(id)
    if found is None or fn is None:
        raise ReceiverNotFoundError(
            f"there is no task {id!r} on channel {channel!r}; define it in the module "
            "`notifications` of an app that the worker has installed, too"
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
    """Return a text for a payload: for that of a batch there may be none that decodes to it."""
    try:
        return encode_exactly(payload)
    except PayloadEncodingError:
        return repr(payload)
