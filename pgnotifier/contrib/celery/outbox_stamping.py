"""Make the messages of simple tasks for an outbox from a template, in a quarter of the time.

    apply_async -> Stamper.send_task -> a stamp that has learned from two messages of Celery's
                   of the app           or Celery.send_task, if there is none

A stamp is for one task and one set of options. Celery makes the first two messages: the first one
becomes the template, and if the stamp doesn't make the second one as Celery did, character by
character, Celery makes all of them. The stamp fills in what differs between messages: the ids, the
arguments and their repr. Celery also makes the messages of calls with anything else, such as a
`countdown` or a `link`, and all messages that are published in a task, or while a receiver of
Celery's signals may change them.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from celery import Celery, signals
from celery._state import get_current_worker_task
from celery.app.task import Task
from celery.canvas import Signature
from kombu import Producer

from pgnotifier._log.composing import Draft
from pgnotifier._runtime.process import renew_in_children
from pgnotifier.contrib._queues.recordings import not_captured
from pgnotifier.contrib.celery.obstacles import find_obstacle_for, find_obstacle_in_task
from pgnotifier.contrib.celery.outbox_stamps import UUID_PATTERN, MessageStamp
from pgnotifier.contrib.celery.stamping import new_ids
from pgnotifier.errors import ArgumentTypeError

_Signature: Any = Signature
_signals: Any = signals
_SCALARS = frozenset({str, int, float, bool, type(None)})
# Celery makes the messages of calls with one of these: they differ by message, or are rare.
_RARE = frozenset(
    {
        *("router", "connection", "publisher", "producer", "countdown", "eta", "link"),
        *("link_error", "group_id", "group_index", "retries", "chord", "reply_to", "root_id"),
        *("parent_id", "chain", "replaced_task_nesting", "headers", "compression"),
        *("stamped_headers", "argsrepr", "kwargsrepr", "expiration", "origin", "timeout"),
        "confirm_timeout",
    }
)
# A stamp doesn't need these, or fills them in.
_IGNORED = frozenset({"task_id", "result_cls", "task_type", "add_to_parent"})
_MOST = 500
"""How many stamps a thread keeps: there may be new options in each call."""


class _Held(threading.local):
    """What a thread has learned, because messages hold the thread's own queue for answers."""

    def __init__(self) -> None:
        self.ids: Iterator[str] = new_ids(int)
        self.drafts: list[Draft] | None = None
        self.calls: list[tuple[Any, dict[str, Any]]] | None = None
        # A stamp, or None if Celery has to make the messages.
        self.stamps: dict[Any, MessageStamp | None] = {}
        self.unproven: dict[Any, MessageStamp] = {}


class _Call(NamedTuple):
    """How to publish signatures that differ in nothing but their arguments.

    Attributes:
        key: The key of their stamp.
        options: The options that Celery has computed.
        check: Raises a TypeError if a task doesn't take the arguments; None if that isn't checked.
        stamp: Makes their messages; None if there is none, or none yet.
        add: Takes the entries.
        make_result: Makes a result, given the task's id.
        ignored: Whether there will be no result.
    """

    key: Any
    options: dict[str, Any]
    check: Callable[..., Any] | None
    stamp: MessageStamp | None
    add: Any
    make_result: Callable[[str], Any]
    ignored: Any


def _read(
    name: Any = None, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any
) -> tuple[Any, Any, Any, tuple[Any, ...], dict[str, Any]]:
    """Read the arguments of `Celery.send_task`."""
    return name, args, kwargs, rest, options


def _is_set_aside(outbox: Any) -> bool:
    """Return whether a message goes to the broker at once, given the option `outbox`."""
    if outbox is not None and outbox is not False:
        raise ArgumentTypeError(
            f"outbox must be False, or left out, not {outbox!r:.80}: to put a task into an outbox, "
            "publish it in `with outbox():`"
        )
    return outbox is False


class Stamper:
    """Stands in for `Celery.send_task` of an app.

    Attributes:
        count: How many messages it has made. Threads don't wait for each other to count.
    """

    def __init__(self, app: Any, find_sink: Callable[[], Any]) -> None:
        """Keep the function that Celery would have called.

        Args:
            app: The app.
            find_sink: Returns the sink of the app's messages; None if they go to the broker.
        """
        self._app = app
        self._find_sink = find_sink
        self._own = vars(app).get("send_task")
        self._functions = self._find_functions()
        self._held = _Held()
        self.count = 0
        renew_in_children(self)

    def renew(self) -> None:
        """Forget everything, in a forked child: messages hold the name of their process."""
        self._held = _Held()

    def send_task(self, *given: Any, **named: Any) -> Any:
        """Publish a task: see `Celery.send_task`.

        With `outbox=False`, it is published at once, even in a block.

        Raises:
            ArgumentTypeError: `outbox` is neither False nor None.
        """
        if "outbox" in named and _is_set_aside(named.pop("outbox")):
            with not_captured():
                return self._send(*given, **named)
        if (sink := self._find_sink()) is None:
            return self._send(*given, **named)
        name, args, kwargs, rest, options = _read(*given, **named)
        key = None if rest else self._find_key(name, args, kwargs, options)
        if key is None:
            return self._send(*given, **named)
        if self._held.calls is not None:
            self._held.calls.append((key, options))
        make_result = options.get("result_cls") or self._app.AsyncResult
        return self._publish(sink, key, options, make_result, args, kwargs)

    def _publish(
        self,
        sink: Any,
        key: Any,
        options: dict[str, Any],
        make_result: Callable[[str], Any],
        args: Any,
        kwargs: Any,
    ) -> Any:
        name, held = key[0], self._held
        if sink is None or not sink.takes(name):
            return self._send(name, args, kwargs, **options)
        if key not in held.stamps:
            return self._learn(key, name, args, kwargs, options)
        if (stamp := held.stamps[key]) is not None:
            task_id = options.get("task_id") or next(held.ids)
            draft = stamp.press(args, kwargs, task_id, next(held.ids))
            if draft is not None:
                self.count += 1
                sink.add(draft)
                result = make_result(task_id)
                result.ignored = options.get("ignore_result")
                return result
        return self._send(name, args, kwargs, **options)

    def _find_result_class(self, options: dict[str, Any]) -> Callable[[str], Any]:
        """Return a function that makes a result, given the task's id."""
        given: Any = options.get("result_cls")
        if getattr(given, "__func__", None) is not Task.AsyncResult:
            found: Callable[[str], Any] = given or self._app.AsyncResult
            return found
        task: Any = given.__self__
        # As the task's method does, but with only one lookup of the backend.
        return partial(task.app.AsyncResult, backend=task.backend, task_name=task.name)

    def apply_all(self, signatures: Iterable[Any]) -> Iterator[Any]:
        """Publish signatures; yield what the `apply_async` of each returns.

        The sink of the messages has to stay the same until all are published.

        If a signature differs from an earlier one only in its arguments, what Celery does before it
        makes the message has the same result. Only the arguments are checked again. A task that
        overrides what Celery does then is published by its own `apply_async` each time.
        """
        known: dict[Any, _Call] = {}
        held, may_stamp = self._held, self._may_stamp()  # while nobody else gets a turn
        ids = held.ids
        for signature in signatures:
            kind = self._find_kind(signature)
            call = known.get(kind)
            if call is None or not may_stamp:
                calls = held.calls = []
                try:
                    result = signature.apply_async()
                finally:
                    held.calls = None
                if kind is not None and len(calls) == 1:
                    task = kind[0]
                    if find_obstacle_in_task(task, self._app) is None:
                        known[kind] = self._prepare(task, *calls[0])
                yield result
                continue
            args, kwargs = signature["args"], signature["kwargs"]
            if call.check is not None:
                call.check(*args, **kwargs)
            if call.stamp is not None:
                task_id = next(ids)
                draft = call.stamp.press(args, kwargs, task_id, next(ids))
                if draft is not None:
                    self.count += 1
                    call.add(draft)
                    result = call.make_result(task_id)
                    result.ignored = call.ignored
                    yield result
                    continue
            sink = self._find_sink()
            result = self._publish(sink, call.key, call.options, call.make_result, args, kwargs)
            known[kind] = self._prepare(kind[0], call.key, call.options)
            yield result

    def _prepare(self, task: Any, key: Any, options: dict[str, Any]) -> "_Call":
        """Return how to publish other signatures of a kind."""
        sink = self._find_sink()
        if sink is not None and not sink.takes(key[0]):
            sink = None
        return _Call(
            key,
            options,
            task.__header__ if task.typing else None,
            None if sink is None else self._held.stamps.get(key),
            None if sink is None else sink.add,
            self._find_result_class(options),
            options.get("ignore_result"),
        )

    def _find_kind(self, signature: Any) -> Any:
        """Return what signatures with other arguments have in common; None for a canvas."""
        if type(signature) is not _Signature or (task := signature._type) is None:  # noqa: SLF001
            return None
        options = signature["options"]
        kind = task, signature["task"], type(signature["args"]), type(signature["kwargs"])
        if not options:
            return kind
        kinds = tuple(map(type, options.values()))
        if "task_id" in options or not _SCALARS.issuperset(kinds):
            return None
        return *kind, *options.items(), kinds

    def note(self, draft: Draft) -> None:
        """Note the entry of a message that Celery has made."""
        if self._held.drafts is not None:
            self._held.drafts.append(draft)

    def _send(self, *given: Any, **named: Any) -> Any:
        """Call what `app.send_task` would be without this object."""
        if self._own is not None:
            return self._own(*given, **named)
        kind = type(self._app)
        function: Any = kind.send_task
        if hasattr(function, "__get__"):  # a mock lacks it, and expects no app
            function = function.__get__(self._app, kind)
        return function(*given, **named)

    def _find_functions(self) -> tuple[Any, ...]:
        """Return the functions that make messages. They change when somebody patches them."""
        return Celery.send_task, type(self._app).send_task, Producer.publish

    def _may_stamp(self) -> bool:
        """Return whether nothing that a stamp doesn't know about may change messages."""
        return not (
            get_current_worker_task() is not None
            or _signals.before_task_publish.receivers
            or _signals.after_task_publish.receivers
            or _signals.task_sent.receivers
            or self._own is not None
            or self._find_functions() != self._functions
        )

    def _find_key(self, name: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        """Return the key of the stamp for a call; None if Celery has to make the message."""
        if (
            any(value for part, value in options.items() if part in _RARE)
            or options.get("expires") is not None  # even 0 is a time from now
            or not (args is None or type(args) in (tuple, list))
            or not (kwargs is None or type(kwargs) is dict)
            or (
                (task_id := options.get("task_id"))
                and not (type(task_id) is str and UUID_PATTERN.fullmatch(task_id))
            )
            or not self._may_stamp()
        ):
            return None
        values = tuple([value for part, value in options.items() if part not in _IGNORED])
        kinds = tuple(map(type, values))
        if type(name) is not str or not _SCALARS.issuperset(kinds):
            return None
        # With the types, because 1 equals True. Rare options are part of it, too: None, 0 and empty
        # values may have a meaning. The order is that in the call, and seldom changes.
        return name, type(args), tuple(options), values, kinds

    def _learn(self, key: Any, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        """Have Celery publish a task; make a stamp of its message, or prove an existing stamp."""
        held = self._held
        if len(held.stamps) + len(held.unproven) >= _MOST:
            held.stamps.clear()
            held.unproven.clear()
        held.drafts = []
        try:
            result = self._send(name, args, kwargs, **options)
            drafts = held.drafts
        finally:
            held.drafts = None
        unproven = held.unproven.pop(key, None)
        if len(drafts) != 1:
            held.stamps[key] = None
        elif unproven is not None:
            held.stamps[key] = unproven if unproven.makes(drafts[0], args, kwargs) else None
        else:
            stamp = self._make(name, drafts[0], options)
            if stamp is None:
                held.stamps[key] = None
            else:
                held.unproven[key] = stamp
        return result

    def _make(self, name: str, draft: Draft, options: dict[str, Any]) -> MessageStamp | None:
        app = self._app
        task = options.get("task_type") or app.tasks.get(name)
        if app.conf.task_compression or find_obstacle_for(task, app) is not None:
            return None
        serializer = options.get("serializer") or app.conf.task_serializer
        try:
            return MessageStamp(app, draft, serializer)
        except (ValueError, KeyError, TypeError):
            return None
