"""The inline dispatcher: what it calls, which errors it catches, and what it refuses."""

import functools
from datetime import UTC, datetime
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import pytest

from pgnotifier import (
    Batch,
    Delivery,
    Dispatcher,
    DispatcherMismatchError,
    InlineDispatcher,
    Notification,
    Subscription,
    UnknownOptionError,
)
from pgnotifier.dispatch import Binding


class Async:
    """An object that is called like a coroutine function."""

    async def __call__(self, id, channel, payload, pid):
        """Do nothing."""

    async def method(self, id, channel, payload, pid):
        """Do nothing."""


class Task:
    """An object that looks like a Celery task."""

    def apply_async(self):
        """Enqueue."""

    def __call__(self, *_):
        """Run in this process."""


async def coroutine(id, channel, payload, pid):
    """Do nothing."""


async def async_generator(id, channel, payload, pid):
    """Do nothing."""
    yield


def generator(id, channel, payload, pid):
    """Do nothing."""
    yield


def bound(fn, **options):
    return InlineDispatcher().bind(Subscription(1, "a", fn, InlineDispatcher(), options))


def deliveries(*fns, reports):
    inline, batch = InlineDispatcher(), []
    for number, fn in enumerate(fns):
        subscription = Subscription(number, "a", fn, inline)
        binding = Binding(subscription, fn, lambda *report: reports.append(report))
        notification = Notification("a", {"n": number}, "raw", 7, datetime.now(UTC))
        batch.append(Delivery(binding, notification))
    return Batch(batch)


def test_calls_in_order():
    """Each callback gets id, channel, payload and pid, in the batch's order, once."""
    calls, reports = [], []
    batch = deliveries(*[lambda *args: calls.append(args)] * 3, reports=reports)
    InlineDispatcher().dispatch(batch)
    assert calls == [(n, "a", {"n": n}, 7) for n in range(3)]
    assert not batch.remaining
    assert reports == []


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError()],
)
def test_raising_callbacks(error):
    """Any exception of a callback is reported with its subscription; the others are called."""
    calls, reports = [], []

    def fail(*_):
        raise error

    batch = deliveries(fail, lambda *args: calls.append(args), fail, reports=reports)
    InlineDispatcher().dispatch(batch)
    assert [call[0] for call in calls] == [1]
    assert [(exc, s.id, n.payload) for exc, s, n in reports] == [
        (error, 0, {"n": 0}),
        (error, 2, {"n": 2}),
    ]


def test_ended_bindings_are_passed_over():
    """A delivery is skipped if its subscription was removed, even by an earlier callback."""
    calls, reports = [], []
    batch = deliveries(
        lambda *_: setattr(last.binding, "live", False), calls.append, reports=reports
    )
    last = batch[-1]
    InlineDispatcher().dispatch(batch)
    assert calls == reports == []


def test_a_batch_that_is_cancelled():
    """When a batch is cancelled, the rest of it isn't delivered."""
    calls, reports = [], []
    batch = deliveries(lambda *_: batch.cancel(), lambda *_: calls.append(1), reports=reports)
    InlineDispatcher().dispatch(batch)
    assert calls == reports == []


@pytest.mark.parametrize(
    "fn",
    [
        coroutine,
        async_generator,
        generator,
        functools.partial(coroutine, 1),
        Async(),
        Async().method,
    ],
)
def test_functions_that_would_do_nothing(fn):
    """Coroutine and generator functions are refused: calling them doesn't run their body."""
    with pytest.raises(DispatcherMismatchError) as caught:
        bound(fn)
    assert isinstance(caught.value, TypeError)


def test_tasks_are_refused():
    """An object with `apply_async` is refused with a hint at the Celery dispatcher."""
    with pytest.raises(DispatcherMismatchError, match="dispatcher=CeleryDispatcher"):
        bound(Task())


def test_options_are_refused():
    """Options are refused by name, because only queues take them."""
    with pytest.raises(UnknownOptionError, match="'queue', 'countdown'"):
        bound(print, queue="low", countdown=1)


@pytest.mark.parametrize(
    "fn",
    [
        print,
        "x".join,
        Mock(),
        MagicMock(),
        functools.partial(print, 1),
        SimpleNamespace,
        lambda *_: None,
        Mock(spec=print),
    ],
)
def test_callables(fn):
    """Any other callable is accepted: builtins, methods, classes, partials and mocks."""
    assert bound(fn) is fn


def test_a_dispatcher_of_ones_own():
    """A custom dispatcher has to define `bind` and `dispatch`, and nothing else."""

    class Mine(Dispatcher):
        def bind(self, subscription):
            return subscription.fn

        def dispatch(self, batch):
            batch.done(len(batch))

    mine = Mine()
    mine.attach(None)
    mine.unbind(None)
    mine.close()
    assert mine.starts_listener
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Dispatcher,), {"bind": Mine.bind})()
