"""Which messages an outbox captures: those of its app, in its context, until its block ends."""

import asyncio
import contextlib
import contextvars
import os
import threading
import warnings

import pytest
from brokered import own
from captured import capture
from celery import Celery, chain, group
from celery.exceptions import Ignore, Retry
from kombu import Connection

from pgnotifier.contrib.celery.outbox_capture import Capture
from pgnotifier.errors import ArgumentTypeError, ConfigurationError


@pytest.fixture
def task(app):
    return own(app, bind=True)


@pytest.fixture
def sent(app):
    """Return a function that takes what has been sent out of the broker: the first arguments."""

    def take(queue=None):
        found = []
        with app.connection_for_read() as connection:
            channel = connection.channel()
            name = queue or app.conf.task_default_queue
            channel.queue_declare(queue=name)
            while message := channel.basic_get(name, no_ack=True):
                payload = message.payload
                found.append(payload["args"] if isinstance(payload, dict) else payload[0])
        return found

    return take


def count(recording):
    return len(recording.drafts)


def test_outside_of_blocks(app, task, sent):
    """Before and after a block, tasks are sent."""
    task.delay(1)
    with Capture.of(app).record() as recording:
        task.delay(2)
        assert sent() == [[1]]
    task.delay(3)
    assert sent() == [[3]]
    assert count(recording) == 1


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//", "memory://", ""])
@pytest.mark.parametrize("backend", ["redis://127.0.0.1:1/1", None])
def test_nobody_listens(url, backend):
    """Neither the broker nor the result backend has to be there."""
    app = Celery("shop", broker=url, backend=backend, set_as_current=False)
    task = own(app)

    def publish():
        task.apply_async((1,), countdown=5, retry=True)
        chain(task.s(1), task.s(2)).apply_async()
        app.send_task("elsewhere", queue="low")

    assert len(capture(app, publish)) == 3


def test_other_apps(app, task, sent):
    """Tasks of another app are sent, and a block of that one around it captures them."""
    other = Celery("other", broker="memory://", set_as_current=False)
    theirs = own(other)
    with Capture.of(app).record() as ours:
        theirs.apply_async((1,), queue=app.conf.task_default_queue)
        assert sent() == [[1]]
        with Capture.of(other).record() as inner:
            task.delay(2)
            theirs.delay(3)
    assert (count(ours), count(inner)) == (1, 1)
    assert sent() == []


@pytest.fixture
def properties(app):
    """Return a function that takes the properties of what has been sent out of the broker."""

    def take():
        found = []
        with app.connection_for_read() as connection:
            channel = connection.channel()
            while message := channel.basic_get(app.conf.task_default_queue, no_ack=True):
                found.append(message.properties)
        return found

    return take


ASIDE = {
    "task": lambda app, task: task.apply_async((1,), outbox=False),
    "signature": lambda app, task: task.s(1).set(outbox=False).delay(),
    "name": lambda app, task: app.send_task("own", (1,), outbox=False),
    "group": lambda app, task: group(task.s(1), task.s(2)).apply_async(outbox=False),
    "chain": lambda app, task: chain(task.s(1), task.s(2)).apply_async(outbox=False),
    "many": lambda app, task: [
        *Capture.of(app).stamper.apply_all([task.s(n).set(outbox=False) for n in range(5)])
    ],
}


@pytest.mark.parametrize("what", ASIDE)
def test_a_call_aside(app, task, properties, what):
    """A call with `outbox=False` is sent at once, also in a block, as it would be without one."""
    outbox = Capture.of(app)
    ASIDE[what](app, task)  # without a block
    plain = properties()
    with outbox.record() as recording:
        for n in range(3):
            task.delay(n)
        ASIDE[what](app, task)
        found = properties()
        task.apply_async((3,), outbox=None)
    assert len(found) == len(plain) > 0
    assert [sorted(one) for one in found] == [sorted(one) for one in plain]
    assert not any("outbox" in one for one in (*plain, *found))
    assert count(recording) == 4
    assert not any('"outbox"' in text for _, text in recording.drafts)


def test_an_eager_call_aside(app, task):
    """A task that runs at once takes no notice of `outbox=False`."""
    app.conf.task_always_eager = True
    with Capture.of(app).record() as recording:
        assert task.apply_async((1,), outbox=False).successful()
    assert count(recording) == 0


@pytest.mark.parametrize("outbox", [True, 0, "no"])
def test_other_options(app, task, sent, outbox):
    """`outbox=` takes nothing else, in a block and without one."""
    for block in (Capture.of(app).record(), contextlib.nullcontext()):
        with block, pytest.raises(ArgumentTypeError, match="outbox must be False"):
            task.apply_async((1,), outbox=outbox)
    assert sent() == []


def test_nested_blocks(app, task):
    """The innermost block gets the messages; the outer one continues after it."""
    capture = Capture.of(app)
    assert Capture.of(app) is capture
    with capture.record() as outer:
        task.delay(1)
        with capture.record() as inner:
            task.delay(2)
            task.delay(3)
        task.delay(4)
    assert (count(outer), count(inner)) == (2, 2)


def test_threads(app, task, sent):
    """A thread has no block of its own, unless it runs in the context of the block."""
    with Capture.of(app).record() as recording:
        for run in (task.delay, contextvars.copy_context().run):
            thread = threading.Thread(
                target=run, args=(1,) if run == task.delay else (task.delay, 2)
            )
            thread.start()
            thread.join()
    assert count(recording) == 1
    assert sent() == [[1]]


async def publish_later(task, number, begun):
    await begun.wait()
    task.delay(number)


def test_tasks_of_asyncio(app, task, sent):
    """Tasks have their own blocks, inherit that of their parent, and may outlive it."""
    capture = Capture.of(app)

    async def in_a_block(number, barrier):
        with capture.record() as recording:
            await barrier.wait()
            task.delay(number)
            await asyncio.gather(asyncio.to_thread(task.delay, number), barrier.wait())
        return recording

    async def run():
        barrier, begun = asyncio.Barrier(2), asyncio.Event()
        first, second = await asyncio.gather(in_a_block(1, barrier), in_a_block(2, barrier))
        assert (count(first), count(second)) == (2, 2)
        with capture.record() as left:
            late = asyncio.create_task(publish_later(task, 3, begun))
        begun.set()
        await late
        assert count(left) == 0
        assert sent() == [[3]]

    asyncio.run(run())


def test_a_generator_that_ends_elsewhere(app, task, sent):
    """A block that is left in another context ends as well."""
    capture = Capture.of(app)

    def generate():
        with capture.record() as recording:
            yield recording

    generator = generate()
    context = contextvars.copy_context()
    recording = context.run(next, generator)
    context.run(task.delay, 1)
    with pytest.raises(StopIteration):
        next(generator)
    context.run(task.delay, 2)
    assert count(recording) == 1
    assert sent() == [[2]]


def test_forks(app, task):
    """A child has no part in its parent's block."""
    with Capture.of(app).record() as recording:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other threads don't matter
            pid = os.fork()
        if pid == 0:
            os._exit(0 if Capture.of(app).find() is None and not recording.is_ours else 1)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        task.delay(1)
    assert count(recording) == 1


@pytest.fixture
def running(app, task):
    """Have the task run, as in a worker."""
    app.finalize()
    task.push_request(
        id="mine",
        args=[1],
        kwargs={},
        called_directly=False,
        root_id="root",
        retries=0,
        delivery_info={"exchange": "", "routing_key": app.conf.task_default_queue, "priority": 3},
    )
    app.set_current()
    from celery._state import _task_stack

    _task_stack.push(task._get_current_object())
    yield
    _task_stack.pop()
    task.pop_request()


def headers(draft):
    from pgnotifier.contrib.celery.relay_messages import read

    _, payload = draft
    return read(payload).open().headers


def test_in_a_running_task(app, task, running):
    """A message has the ids of the task that publishes it."""
    ((_, *_),) = drafts = capture(app, lambda: task.delay(2))
    assert headers(drafts[0])["root_id"] == "root"
    assert headers(drafts[0])["parent_id"] == "mine"


@pytest.mark.parametrize("protocol", [1, 2])
def test_retries(app, task, running, sent, protocol):
    """A retry is sent at once: its exception rolls the transaction back."""
    app.conf.task_protocol = protocol
    with Capture.of(app).record() as recording:
        task.delay(2)
        with pytest.raises(Retry):
            task.retry(countdown=1)
    assert count(recording) == 1
    assert sent() == [[1]]


@pytest.mark.parametrize(
    "make", [lambda t: t.s(5), lambda t: chain(t.s(5), t.s(6)), lambda t: group(t.s(5), t.s(6))]
)
def test_replacing(app, task, running, sent, make):
    """What replaces the running task is sent at once as well."""
    app.conf.result_backend = "cache+memory://"
    with Capture.of(app).record() as recording, pytest.raises(Ignore):
        task.replace(make(task))
    assert count(recording) == 0
    assert sent()[0] == [5]


def test_eager(app, task):
    """An eager app runs its tasks in the block."""
    app.conf.task_always_eager = True
    results = []
    assert capture(app, lambda: results.append(task.delay(1))) == []
    assert results[0].successful()


def test_producers_of_ones_own(app, task, sent):
    """A task with a producer or connection to the app's broker is captured."""
    with app.producer_pool.acquire() as producer, app.connection_for_write() as connection:

        def publish():
            task.apply_async((1,), producer=producer)
            task.apply_async((2,), connection=connection)

        assert len(capture(app, publish)) == 2
    assert sent() == []


def test_another_broker(app, task):
    """A task for another broker is refused, because the relay wouldn't know of it."""
    connection = Connection("redis://:secret@127.0.0.1:1/0")
    with pytest.raises(ConfigurationError, match=r"to redis://.*127\.0\.0\.1:1/0, but") as caught:
        capture(app, lambda: task.apply_async((1,), connection=connection))
    assert "secret" not in str(caught.value)


def test_the_other_one_of_several_brokers(make_app):
    """A connection that has gone over to the app's next broker leads to the app's broker, too."""
    app = make_app(broker_url=["redis://:secret@127.0.0.1:1/0", "redis://:secret@127.0.0.1:2/0"])
    task = own(app)
    connection = app.connection_for_write()
    connection.switch(connection.alt[1])
    assert "127.0.0.1:2" in connection.as_uri()
    assert len(capture(app, lambda: task.apply_async((1,), connection=connection))) == 1


def test_a_producer_that_outlives_its_block(app):
    """What the block's producer publishes later isn't lost silently."""
    with Capture.of(app).record(), app.producer_or_acquire() as producer:
        pass
    with pytest.raises(RuntimeError, match="only for the block"):
        producer.publish({}, routing_key="low")


def test_what_takes_messages_otherwise(app, task, sent):
    """An integration may take what no block does."""
    capture, taken = Capture.of(app), []

    class Sink:
        """Keeps what it is given."""

        add = taken.append

        def takes(self, task):
            return task != "other"

    capture.finders.append(Sink)
    task.delay(1)
    with capture.record() as recording:
        task.delay(2)
    assert (len(taken), count(recording), sent()) == (1, 1, [])


def test_the_result_backend(app, task):
    """Only outside of a block does a backend wait for the results of all tasks."""
    calls = []
    app.backend.on_task_call = lambda producer, task_id: calls.append(task_id)
    with Capture.of(app).record():
        task.apply_async(task_id="captured")
        task.apply_async(task_id="silent", ignore_result=True)
    task.apply_async(task_id="sent")
    assert calls == ["sent"]
