"""AsyncioDispatcher calls callbacks on the user's event loop, from its start to its end."""

import asyncio
import gc
import socket
import threading
import time

import pytest

from pgnotifier import (
    ArgumentTypeError,
    AsyncioDispatcher,
    ConfigurationError,
    ConnectionFailedError,
    DispatcherMismatchError,
    Notifier,
)

TIMEOUT = 20


async def until(condition):
    """Wait until a condition is true; the loop runs meanwhile."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_for_the_length_of_a_block(db, record):
    """Callbacks run on the loop of an `async with` block; at its end all received are delivered."""

    async def main():
        notifier = Notifier(db.dsn, dispatcher=AsyncioDispatcher())
        loops = set()

        @notifier.on("a")
        async def callback(*args):
            await asyncio.sleep(0.01)
            loops.add(asyncio.get_running_loop())
            record(*args)

        assert not notifier.is_running()
        async with notifier:
            for n in range(20):
                db.notify("a", str(n))
            await until(lambda: notifier.status().received >= 20)
        assert record.payloads == list(range(20))
        assert loops == {asyncio.get_running_loop()}
        assert not notifier.is_running()

    asyncio.run(main())


def test_one_loop_after_another(db, record):
    """A notifier can be started on one loop, and later on another one."""
    notifier = Notifier(db.dsn, dispatcher=AsyncioDispatcher())

    @notifier.on("a")
    async def callback(*args):
        record(*args)

    async def main(n):
        async with notifier:
            db.notify("a", str(n))
            await until(lambda: n in record.payloads)

    for n in range(3):
        asyncio.run(main(n))
    assert record.payloads == [0, 1, 2]


def test_several_at_a_time(db):
    """Callbacks of several subscriptions run concurrently; those of one subscription in order."""

    async def main():
        notifier = Notifier(db.dsn, dispatcher=AsyncioDispatcher())
        barrier, calls = asyncio.Barrier(3), []

        async def meet(id, channel, payload, pid):
            await barrier.wait()
            calls.append((id, payload))

        for n in range(3):
            notifier.subscribe(n, "a", meet)
        async with notifier:
            db.notify("a", "1")
            db.notify("a", "2")
            await until(lambda: len(calls) == 6)
        for n in range(3):
            assert [payload for key, payload in calls if key == n] == [1, 2]

    asyncio.run(main())


def test_at_most_so_many_tasks(db):
    """At most `max_tasks` callbacks run at a time; further notifications wait."""

    async def main():
        dispatcher = AsyncioDispatcher(ordered=False, max_tasks=2)
        notifier = Notifier(db.dsn, dispatcher=dispatcher)
        running, most = 0, 0
        done = []

        async def work(id, channel, payload, pid):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1
            done.append(payload)

        notifier.subscribe(1, "a", work)
        async with notifier:
            for n in range(20):
                db.notify("a", str(n))
            await until(lambda: len(done) == 20)
        assert most == 2
        assert sorted(done) == list(range(20))

    asyncio.run(main())


def test_plain_functions_are_called_on_the_loop(db):
    """A callback may be a plain function; an awaitable that it returns is awaited."""

    async def main():
        queue = asyncio.Queue()
        awaited = asyncio.Event()
        notifier = Notifier(db.dsn, dispatcher=AsyncioDispatcher())
        notifier.subscribe(1, "a", lambda *args: queue.put_nowait(args[2]))
        notifier.subscribe(2, "a", lambda *args: asyncio.sleep(0, awaited.set()))
        async with notifier:
            db.notify("a", '"hello"')
            assert await asyncio.wait_for(queue.get(), TIMEOUT) == "hello"
            await asyncio.wait_for(awaited.wait(), TIMEOUT)

    asyncio.run(main())


def test_errors_are_reported(db):
    """Errors of coroutines and functions are reported, also a CancelledError that they raise."""

    async def main():
        errors = []
        notifier = Notifier(
            db.dsn, dispatcher=AsyncioDispatcher(), on_error=lambda *error: errors.append(error)
        )

        async def cancelled(*_):
            other = asyncio.ensure_future(asyncio.sleep(60))
            other.cancel()
            await other

        async def leaves(*_):
            raise SystemExit(3)

        notifier.subscribe("cancelled", "a", cancelled)
        notifier.subscribe("leaves", "a", leaves)
        notifier.subscribe("plain", "a", lambda *_: 1 / 0)
        async with notifier:
            db.notify("a", "1")
            db.notify("a", "2")
            await until(lambda: len(errors) == 6)
        kinds = {(type(exc), subscription.id) for exc, subscription, _ in errors}
        assert kinds == {
            (asyncio.CancelledError, "cancelled"),
            (SystemExit, "leaves"),
            (ZeroDivisionError, "plain"),
        }

    asyncio.run(main())


def test_a_loop_that_ends_first(db, eventually):
    """If the loop ends first, undelivered notifications are errors, and `stop()` doesn't wait."""
    errors = []
    notifier = Notifier(
        db.dsn, dispatcher=AsyncioDispatcher(), on_error=lambda exc, _, n: errors.append((exc, n))
    )

    begun = []

    @notifier.on("a")
    async def stuck(*_):
        begun.append(True)
        await asyncio.sleep(60)

    async def main():
        notifier.start()
        db.notify("a", "1")
        db.notify("a", "2")
        await until(lambda: begun and notifier.status().dispatchers[0].waiting == 2)

    asyncio.run(main())
    db.notify("a", "3")
    eventually(lambda: notifier.status().received >= 3)
    began = time.monotonic()
    assert notifier.stop(20) == 0
    assert time.monotonic() - began < 15
    assert sorted(n.payload for _, n in errors) == [1, 2, 3]
    assert {type(exc) for exc, n in errors if n.payload == 1} == {asyncio.CancelledError}
    for exc, n in errors:
        if n.payload != 1:
            assert "loop of AsyncioDispatcher is closed" in str(exc)
    gc.collect()


def test_stopping_on_the_loop_itself(db, record):
    """`stop()` on the loop itself doesn't wait; callbacks are done when the loop goes on."""

    async def main():
        notifier = Notifier(db.dsn, dispatcher=AsyncioDispatcher())
        go = asyncio.Event()

        @notifier.on("a")
        async def callback(*args):
            await go.wait()
            record(*args)

        async with notifier:
            for n in range(3):
                db.notify("a", str(n))
            await until(lambda: notifier.status().dispatchers[0].waiting == 3)
            began = time.monotonic()
            notifier.stop(20)
            assert time.monotonic() - began < 15
            go.set()
            await until(lambda: len(record.calls) == 3)

    asyncio.run(main())


def test_a_callback_stops_in_a_thread(db, record):
    """A callback can call `stop` in a thread; the two don't wait for each other."""

    async def main():
        notifier = Notifier(db.dsn, dispatcher=AsyncioDispatcher())
        took = []

        @notifier.on("a")
        async def stop(*args):
            began = time.monotonic()
            await asyncio.to_thread(notifier.stop, 20)
            took.append(time.monotonic() - began)

        async with notifier:
            db.notify("a")
            await until(lambda: took)
        assert took[0] < 15

    asyncio.run(main())


@pytest.fixture
def silent_dsn():
    """Yield the DSN of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"host=127.0.0.1 port={server.getsockname()[1]}"


def test_cancelled_while_it_starts(silent_dsn, caplog):
    """A notifier that is cancelled while it starts doesn't run afterwards, and logs no error."""

    async def main():
        notifier = Notifier(silent_dsn, dispatcher=AsyncioDispatcher())
        notifier.add_channel("a", autorun=False)

        async def enter():
            async with notifier:
                pass

        task = asyncio.create_task(enter())
        await until(lambda: notifier.is_running())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not notifier.is_running()

    asyncio.run(main())
    gc.collect()  # asyncio looks at futures when they are deleted
    assert [one for one in caplog.records if one.name == "asyncio"] == []


def test_no_connection(db):
    """`async with` raises if no connection can be made."""

    async def main():
        notifier = Notifier("host=127.0.0.1 port=1", dispatcher=AsyncioDispatcher())
        notifier.add_channel("a", autorun=False)
        with pytest.raises(ConnectionFailedError):
            async with notifier:
                pass

    asyncio.run(main())


def test_without_a_loop(db):
    """Without a running loop `start` raises, and `subscribe` doesn't."""
    notifier = Notifier(db.dsn, dispatcher=AsyncioDispatcher())
    notifier.subscribe(1, "a", lambda *_: None)
    with pytest.raises(ConfigurationError, match=r"no running event loop.*async with notifier"):
        notifier.start()
    assert not notifier.is_running()


def test_what_it_does_not_take(db):
    """Closed loops, generators and arguments that are invalid are refused with a reason."""
    loop = asyncio.new_event_loop()
    loop.close()
    notifier = Notifier(db.dsn, dispatcher=AsyncioDispatcher(loop))
    with pytest.raises(ConfigurationError, match="is closed"):
        notifier.start()

    async def generate(*_):
        yield

    with pytest.raises(DispatcherMismatchError, match="generator"):
        notifier.subscribe(1, "a", generate)
    with pytest.raises(ArgumentTypeError, match="loop is an event loop"):
        AsyncioDispatcher(5)
    with pytest.raises(ConfigurationError, match="max_tasks"):
        AsyncioDispatcher(max_tasks=0)


def test_a_dispatcher_that_joins_later(db, record):
    """A running notifier's subscription can have an AsyncioDispatcher, for the running loop."""

    async def main():
        with Notifier(db.dsn) as notifier:
            notifier.add_channel("b")
            dispatcher = AsyncioDispatcher()
            threads = set()

            async def callback(*args):
                threads.add(threading.current_thread())
                record(*args)

            notifier.subscribe(1, "a", callback, dispatcher=dispatcher)
            db.notify("a", "1")
            await until(lambda: record.calls)
            assert threads == {threading.main_thread()}
            await asyncio.to_thread(notifier.stop)

    asyncio.run(main())


def test_cancelled_by_somebody_else(db):
    """If all tasks of the loop are cancelled and it goes on, waiting callbacks still begin."""
    calls = []

    async def callback(_id, _channel, payload, _pid):
        calls.append(payload)
        await asyncio.sleep(60 if payload == 0 else 0)

    async def main():
        async with Notifier(db.dsn, dispatcher=AsyncioDispatcher(max_tasks=1)) as notifier:
            await asyncio.to_thread(notifier.subscribe, 1, "a", callback)
            for number in range(3):
                db.notify("a", number)
            while notifier.status().dispatchers[0].waiting < 3 or not calls:
                await asyncio.sleep(0.01)
            ours = asyncio.current_task()
            for task in asyncio.all_tasks():
                if task is not ours:
                    task.cancel()
            async with asyncio.timeout(20):
                while calls != [0, 1, 2]:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
