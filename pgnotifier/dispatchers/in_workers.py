"""Find the entry of the log for which the calling callback, task or job was called.

In a worker, the task or job that runs says what it was made from. Celery and RQ are found through
`sys.modules`: a worker that runs only the user's own functions may not have imported pgnotifier's
package for its framework.
"""

import sys
from typing import Any

from pgnotifier.current import called_entry
from pgnotifier.dispatchers.carrying import unwrap
from pgnotifier.dispatchers.origins import ORIGIN, read_entry
from pgnotifier.notification import Entry
from pgnotifier.payload import decode

MADE_OF = "_pgnotifier_callback"
"""The attribute of a Celery task that refers to the `CallbackTask` that it was made of."""


def current_entry() -> Entry | None:
    """Return the entry of the log for which the calling callback was called.

        @notifier.on("order_paid", id="invoice", durable=True)
        def make_invoice(id, channel, payload, pid):
            entry = current_entry()
            with suppress(AlreadyDoneError), once(connection, f"{id}:{entry.id}"):
                ...

    It works in callbacks that are called in this process, in threads and on an event loop too; in
    workers of Celery, RQ and `django.tasks`, also in a task or signature of Celery that was itself
    subscribed; and in Django's receivers and tasks. Code that a callback calls, and coroutines and
    tasks of asyncio that it starts, get the same entry.

    With `batch=` or `debounce=`, the entry is the latest one. In this process, the `parts` of a
    batch are all of its entries; in a worker, there are none, because a message only has the number
    of the latest one. In a worker, `raw` is made of the payload. In `on_gap`, the entry has the gap
    as its payload, and the number of the latest entry that was missed.

    Returns:
        The entry, with its `id`, `key`, `published_at` and `attempt`. None outside of a callback,
        in one that was called for a volatile subscription, and in tasks that others have enqueued.
        A task of Celery that gets none of the notification's arguments, because its signature is
        immutable, finds an entry without a payload.
    """
    return called_entry() or _find_in_celery() or _find_in_rq()


def _find_in_celery() -> Entry | None:
    state = sys.modules.get("celery._state")
    task: Any = None if state is None else state.get_current_worker_task()
    headers = getattr(getattr(task, "request", None), "headers", None)
    origin = headers.get(ORIGIN) if isinstance(headers, dict) else None
    if not isinstance(origin, dict) or "id" not in origin:
        return None
    channel, pid, payload = str(origin.get("channel")), origin.get("pid", 0), None
    given: tuple[Any, ...] = tuple(task.request.args or ())
    if _are_ours(given, channel, pid):
        payload = unwrap(given[2], getattr(getattr(task, MADE_OF, None), "decode", decode))
    return read_entry(origin, channel, payload, pid)


def _are_ours(given: tuple[Any, ...], channel: str, pid: Any) -> bool:
    """Return whether arguments begin with the four: those of an immutable signature don't."""
    return (
        len(given) >= 4
        and (type(given[1]), type(given[3])) == (str, int)  # others may not compare to a bool
        and (given[1], given[3]) == (channel, pid)
    )


def _find_in_rq() -> Entry | None:
    module = sys.modules.get("rq.job")
    job: Any = None if module is None else module.get_current_job()
    if job is None or ORIGIN not in job.meta or len(job.args) < 4:
        return None
    # The path of the callback comes first, unless the job calls the callback itself.
    _, channel, carried, pid = job.args[-4:]
    return read_entry(job.meta[ORIGIN], channel, unwrap(carried), pid)
