"""Ask the workers whether they know the tasks that will be enqueued, and warn if they don't.

A worker that doesn't import the module that subscribes discards such a task as unregistered, and
reports it only in its own log.
https://docs.celeryq.dev/en/stable/userguide/workers.html#inspecting-workers
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from celery import Celery, canvas

from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.redaction import redact
from pgnotifier.contrib.celery.broker import Broker
from pgnotifier.contrib.celery.dispatcher import dispatchers_of
from pgnotifier.contrib.celery.targets import CeleryTarget

if TYPE_CHECKING:
    from pgnotifier.notifier import Notifier

logger = logging.getLogger("pgnotifier.celery")

ANSWER_TIMEOUTS = (2.0, 5.0)
"""Seconds to collect answers; the second value if the workers that answered lack some tasks."""
PAUSES = (15.0, 30.0, 60.0, 120.0, 240.0)
"""Seconds between questions while no worker answers: workers may start after the listener."""
SHOWN = 10
"""The maximum number of task names in a warning."""


class Question:
    """Asks the workers of an app in a thread of its own, and warns once about unknown tasks.

    A listener uses it as a `with` block. It never delays the listener, and never makes it fail.
    """

    def __init__(
        self, app: Celery, notifiers: "Iterable[Notifier]", known: Iterable[str] = ()
    ) -> None:
        """Prepare the question; nothing is sent yet.

        Args:
            app: The app, finalized.
            notifiers: The notifiers that listen.
            known: Names of tasks that at least one worker has.
        """
        self._app: Any = app
        self._notifiers = tuple(notifiers)
        self._known = set(known)
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        """Start to ask."""
        conf = self._app.conf
        if not conf.worker_enable_remote_control or conf.task_always_eager:
            return
        try:
            threading.Thread(target=self._run, name="pgnotifier-workers", daemon=True).start()
        except RuntimeError as exc:
            logger.warning(
                "the workers aren't asked for their tasks, because no thread can be started: %s",
                exc,
                extra=about("no_thread"),
            )

    def end(self) -> None:
        """Stop asking. Answers that arrive later are ignored."""
        self._ended.set()

    def _run(self) -> None:
        for pause in PAUSES:
            unknown = find_names(self._app, self._notifiers) - self._known
            try:
                if not unknown or self._ask(unknown):
                    return
                logger.log(
                    logging.INFO if pause == PAUSES[0] else logging.DEBUG,
                    "no worker has answered yet, so it is unknown whether one has %s",
                    _show(unknown),
                    extra=about("workers_silent", count=len(unknown)),
                )
            except Exception as exc:  # noqa: BLE001 - a transport may raise anything
                # Either the broker is down, which the dispatcher logs when it has to publish; or
                # the transport has no fanout.
                logger.debug(
                    "can't ask the workers for their tasks: %s",
                    redact(exc),
                    extra=about("workers_silent", error=type(exc).__name__),
                )
            if self._ended.wait(pause):
                return

    def _ask(self, unknown: set[str]) -> bool:
        """Ask, and warn if tasks are missing; return whether a worker has answered."""
        answers: dict[str, set[str]] = {}
        missing = unknown
        for timeout in ANSWER_TIMEOUTS:
            answers |= ask(self._app, timeout)
            missing = unknown.difference(*answers.values())
            if not answers or not missing or self._ended.is_set():
                break
        if answers and missing and not self._ended.is_set():
            logger.warning(
                "no running worker knows %s; a worker that gets an unknown task discards it. "
                "Make the workers import the modules that subscribe, and start them before the "
                "listener (workers that answered: %s)",
                _show(missing),
                ", ".join(sorted(answers)),
                extra=about("tasks_unknown", tasks=sorted(missing), count=len(missing)),
            )
        return bool(answers)


def ask(app: Any, timeout: float) -> Mapping[str, set[str]]:
    """Return the names of the tasks that workers know, by the name of the worker.

    Workers that don't answer in time are missing.

    Args:
        app: The app.
        timeout: Seconds to collect answers.

    Raises:
        Exception: The broker can't be reached. The type depends on the transport.
    """
    broker = Broker(app)
    try:
        with broker.lease() as lease:
            inspect = app.control.inspect(timeout=timeout, connection=lease.producer.connection)
            # Ask for an attribute that no task has: attributes would be appended to the names.
            answers = inspect.registered("_pgnotifier_nothing") or {}
    finally:
        broker.close()
    return {worker: set(names) for worker, names in answers.items() if isinstance(names, list)}


def find_names(app: Celery, notifiers: "Iterable[Notifier]") -> set[str]:
    """Return the names of the tasks that notifiers enqueue, except for Celery's own."""
    owners = set(notifiers)
    found: set[str] = set()
    for dispatcher in dispatchers_of(app):
        if dispatcher.notifier in owners:
            found.update(*map(names_of, dispatcher.targets()))
    return found


def names_of(target: CeleryTarget) -> set[str]:
    """Return the names of the tasks that one subscription enqueues, except for Celery's own."""
    fn = getattr(target, "fn", None)
    found = {target.shown} if fn is None else set(_names(fn))
    found.update(_names(target.options.get("link")), _names(target.options.get("link_error")))
    return {name for name in found if not name.startswith("celery.")}


def _names(part: Any) -> Iterator[str]:
    """Yield the names of the tasks in a task, a signature or a canvas."""
    if isinstance(part, list | tuple):
        for one in part:
            yield from _names(one)
    elif isinstance(part, canvas.Signature):
        signature: Any = part
        yield str(signature.task)
        for name in ("tasks", "header", "body"):
            yield from _names(signature.kwargs.get(name))
        for name in ("link", "link_error"):
            yield from _names(signature.options.get(name))
    elif isinstance(part, Mapping):  # a signature that was read from a message
        yield from _names(canvas.Signature.from_dict(dict(part)))
    elif part is not None and hasattr(part, "apply_async"):
        yield str(part.name)


def _show(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    kind = "the tasks" if len(listed) > 1 else "the task"
    return f"{kind} {', '.join(map(repr, listed[:SHOWN]))}{more}"
