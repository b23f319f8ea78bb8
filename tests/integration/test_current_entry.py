"""Callbacks in this process find the entry that they are called for, by `current_entry()`."""

import asyncio
import itertools
import threading
from contextlib import nullcontext, suppress

import psycopg
import pytest

from pgnotifier import AsyncioDispatcher, Entry, InlineDispatcher, ThreadDispatcher, current_entry
from pgnotifier.durable import MaxLag, publish_many
from pgnotifier.errors import AlreadyDoneError
from pgnotifier.once import once


class Traced(InlineDispatcher):
    """Calls every other callback in a span."""

    def dispatch(self, batch):
        """Deliver as if there was tracing."""
        spans = itertools.cycle([None, nullcontext()])
        self._dispatch_traced(batch, lambda _: next(spans))


@pytest.fixture
def loop():
    """Yield an event loop that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(params=["inline", "traced", "threads", "asyncio", "coroutines"])
def calling(request):
    """Return a dispatcher, and a function that makes a callback for it."""
    if request.param in ("asyncio", "coroutines"):
        dispatcher = AsyncioDispatcher(request.getfixturevalue("loop"))
    else:
        made = {"inline": InlineDispatcher, "traced": Traced, "threads": ThreadDispatcher}
        dispatcher = made[request.param]()

    def adapt(fn):
        async def callback(*given):
            await asyncio.sleep(0.001)
            fn(*given)

        return callback if request.param == "coroutines" else fn

    return dispatcher, adapt


def test_in_callbacks(log, make_notifier, calling, eventually):
    """A durable subscription's callback finds its entry; a volatile one's finds none."""
    dispatcher, adapt = calling
    notifier, seen = make_notifier(log.dsn, dispatcher=dispatcher), []

    def take(id, channel, payload, pid):
        seen.append((id, payload, current_entry()))

    for name in ("invoice", "mail"):
        notifier.subscribe(name, "paid", adapt(take), durable=True)
    notifier.subscribe("live", "paid", adapt(take))
    notifier.start()
    numbers = {}
    for n in range(20):
        (numbers[n],) = log.publish("paid", n, key=f"k{n}")
        log.notify("paid", n)
    eventually(lambda: len(seen) == 60)
    for name, payload, entry in seen:
        if name == "live":
            assert entry is None
        else:
            assert isinstance(entry, Entry)
            assert (entry.id, entry.key) == (numbers[payload], f"k{payload}")
            assert (entry.payload, entry.attempt) == (payload, 1)
            assert entry.published_at is not None


def test_another_attempt(log, make_notifier, calling, eventually):
    """An entry that has failed is found with its next attempt, and not by what comes between."""
    dispatcher, adapt = calling
    notifier, seen = make_notifier(log.dsn, dispatcher=dispatcher), []

    def take(id, channel, payload, pid):
        entry = current_entry()
        seen.append((id, payload, entry and entry.attempt))
        if id == "invoice" and entry.attempt == 1:
            raise ValueError

    notifier.subscribe("invoice", "paid", adapt(take), durable=True)
    notifier.subscribe("live", "plain", adapt(take))
    notifier.start()
    log.publish("paid", 1)
    eventually(lambda: seen)
    log.notify("plain", 2)
    eventually(lambda: len(seen) == 3)
    assert sorted(seen) == [("invoice", 1, 1), ("invoice", 1, 2), ("live", 2, None)]


def test_batches(log, make_notifier, calling, eventually):
    """A batch's entry is the latest one, and its parts are all of them."""
    dispatcher, adapt = calling
    notifier, seen = make_notifier(log.dsn, dispatcher=dispatcher), []
    take = adapt(lambda *given: seen.append((given[2], current_entry())))
    notifier.subscribe("invoice", "paid", take, durable=True, batch=(3, 60))
    notifier.start()
    ids = log.publish("paid", 1, 2, 3)
    eventually(lambda: seen)
    ((payload, entry),) = seen
    assert payload == entry.payload == [1, 2, 3]
    assert entry.id == ids[-1]
    assert [part.id for part in entry.parts] == ids


def test_each_entry_of_a_batch_once(log, make_notifier, eventually):
    """Entries that are repeated in other batches are done once each."""
    log.execute("CREATE TABLE invoice (n int)")
    notifier, taken = make_notifier(log.dsn), []

    def take(id, channel, payloads, pid):
        with psycopg.connect(log.dsn) as connection:
            for part in current_entry().parts:
                with suppress(AlreadyDoneError), once(connection, f"{id}:{part.id}"):
                    connection.execute("INSERT INTO invoice VALUES (%s)", (part.payload,))
        taken.extend(payloads)

    notifier.subscribe("invoice", "paid", take, durable=True, batch=(3, 0.2))
    with psycopg.connect(log.dsn) as connection:
        ids = publish_many(connection, "paid", [1, 2, 3])
    eventually(lambda: taken == [1, 2, 3])
    notifier.seek("invoice", "paid", ids[1])
    log.publish("paid", 4)
    eventually(lambda: taken[-1] == 4)
    assert taken.count(3) == 2
    assert log.execute("SELECT n FROM invoice ORDER BY n") == [(1,), (2,), (3,), (4,)]


def test_what_a_coroutine_starts(log, make_notifier, loop, eventually):
    """A task that a coroutine starts, and a thread that it waits for, have its entry."""
    notifier, seen = make_notifier(log.dsn, dispatcher=AsyncioDispatcher(loop)), []

    async def take(id, channel, payload, pid):
        found = [await asyncio.create_task(look()), await asyncio.to_thread(current_entry)]
        seen.append([entry.id for entry in found])

    async def look():
        return current_entry()

    notifier.subscribe("invoice", "paid", take, durable=True)
    (number,) = log.publish("paid", 1)
    notifier.start()
    log.publish("paid", 2)
    eventually(lambda: seen)
    assert seen[0][0] == seen[0][1] >= number


def test_in_a_gap(log, make_notifier, eventually):
    """`on_gap` finds the gap, with the number of the latest entry that was missed."""
    gaps, limited = [], {"durable": True, "max_lag": MaxLag(entries=2)}
    first = make_notifier(log.dsn)
    first.subscribe("invoice", "paid", print, **limited)
    first.stop()
    ids = log.publish("paid", *range(5))
    log.execute("SELECT pgnotifier.reclaim('0', 1)")
    second = make_notifier(log.dsn)

    def on_gap(id, channel, payload, pid):
        gaps.append((payload, current_entry()))

    second.subscribe("invoice", "paid", print, on_gap=on_gap, **limited)
    eventually(lambda: gaps)
    ((payload, entry),) = gaps
    assert (entry.payload, entry.id) == (payload, ids[2])
