"""Real RQ workers: alone, in a pool, with `--burst`, restarted and killed."""

import os
import signal

import pytest
from rq import Queue
from rq.registry import FailedJobRegistry, StartedJobRegistry

SOURCE = """
@notifier.on(["orders", "images"], id=("shop", "book"))
def bookkeep(id, channel, payload, pid):
    job = get_current_job()
    write("jobs", id, channel, payload, pid)
    write("descriptions", job.description, job.id)
"""

# Job 3 waits until the test releases it; its parent is the worker.
WAITING = """
@notifier.on("orders", id="wait")
def wait(id, channel, payload, pid):
    if payload == 3:
        write("waiting", os.getpid(), os.getppid())
        book.blpop([os.environ["QUEUE"] + ":go"])
    write("jobs", payload)
"""

FAILING = """
def failed(job, connection, type, value, traceback):
    write("failed", job.args[2], str(value))

def done(job, connection, result, *args):
    write("finished", job.args[2], result)

@notifier.on("orders", id="fail", retry=2, job_timeout=30, on_failure=failed, on_success=done)
def fail(id, channel, payload, pid):
    write("tries", payload)
    if payload % 2:
        raise ValueError("odd")
    return payload * 10
"""

VALUES = [
    '{"id": 1, "tags": ["a", null], "amount": 2.5}',
    "{1: (2, b'\\xff'), 'set': {1}}",
    "plain words é",
    "",
    "...",
    "123456789012345678901234567890",
]


@pytest.mark.parametrize("serializer", ["DefaultSerializer", "JSONSerializer"])
def test_the_callback_gets_what_it_would_get_inline(open_shop, serializer):
    """A job's callback gets the values and types of an inline one; its description is the id."""
    shop = open_shop(
        f"import rq.serializers\nqueue.serializer = rq.serializers.{serializer}\n{SOURCE}"
    )
    shop.listener()
    shop.worker("--serializer", f"rq.serializers.{serializer}")
    pid = shop.notify(*(("orders", text) for text in VALUES), ("images", "1"))
    jobs = shop.wait_written("jobs", len(VALUES) + 1)
    key = ("shop", "book")
    expected = [
        (key, "orders", {"id": 1, "tags": ["a", None], "amount": 2.5}, pid),
        (key, "orders", {1: (2, b"\xff"), "set": {1}}, pid),
        (key, "orders", "plain words é", pid),
        (key, "orders", "", pid),
        (key, "orders", ..., pid),
        (key, "orders", 123456789012345678901234567890, pid),
        (key, "images", 1, pid),
    ]
    assert repr(jobs) == repr(expected)
    descriptions = shop.wait_written("descriptions", len(VALUES) + 1)
    assert {description for description, _ in descriptions} == {"shop.book"}
    assert len({job_id for _, job_id in descriptions}) == len(VALUES) + 1
    assert all(job_id.startswith("shop-book-") for _, job_id in descriptions)


def test_a_pool(open_shop):
    """The workers of a pool run each job once."""
    shop = open_shop(SOURCE)
    shop.listener()
    pool = shop.rq("worker-pool", "--num-workers", "2")
    shop.notify(*(("orders", str(n)) for n in range(30)))
    jobs = shop.wait_written("jobs", 30, timeout=90)
    assert sorted(payload for _, _, payload, _ in jobs) == list(range(30))
    pool.signal(signal.SIGTERM)
    assert pool.wait() == 0


def test_burst(open_shop, eventually):
    """`--burst` workers, which end when the queue is empty, run all jobs enqueued before."""
    shop = open_shop(SOURCE)
    shop.listener()
    queue = Queue(shop.queue, connection=shop.redis)
    for begin in (0, 10):
        shop.notify(*(("orders", str(n)) for n in range(begin, begin + 10)))
        eventually(lambda: queue.count == 10)
        worker = shop.rq("worker", "--burst")
        assert worker.wait(60) == 0
        assert queue.count == 0
    assert [payload for _, _, payload, _ in shop.written("jobs")] == list(range(20))


def test_a_worker_that_is_restarted(open_shop):
    """A worker that gets SIGTERM ends its current job; the next worker runs the rest in order."""
    shop = open_shop(WAITING)
    shop.listener()
    worker = shop.worker()
    shop.notify(*(("orders", str(n)) for n in range(8)))
    shop.wait_written("waiting", 1)
    worker.signal(signal.SIGTERM)
    worker.wait_for("arm shut down requested")
    shop.redis.rpush(f"{shop.queue}:go", "go")
    assert worker.wait() == 0
    assert shop.written("jobs") == [(n,) for n in range(4)]
    shop.worker()
    assert shop.wait_written("jobs", 8) == [(n,) for n in range(8)]


def test_a_worker_that_is_killed(open_shop, eventually):
    """A killed worker's job stays in RQ's registry of started jobs; the next one runs the rest."""
    shop = open_shop(WAITING)
    shop.listener()
    shop.worker()
    shop.notify(*(("orders", str(n)) for n in range(8)))
    ((horse, worker),) = shop.wait_written("waiting", 1)
    for pid in (worker, horse):
        os.kill(pid, signal.SIGKILL)
    shop.worker()
    assert shop.wait_written("jobs", 7) == [(n,) for n in range(8) if n != 3]
    started = StartedJobRegistry(shop.queue, connection=shop.redis)
    eventually(lambda: len(started.get_job_ids()) == 1)  # the last job has ended too
    (job_id,) = started.get_job_ids()
    assert Queue(shop.queue, connection=shop.redis).fetch_job(job_id).args[2] == 3


def test_retries_and_callbacks(open_shop, eventually):
    """RQ retries a failed job as often as `retry` says, and calls `on_success` or `on_failure`."""
    shop = open_shop(FAILING)
    shop.listener()
    shop.worker()
    shop.notify(("orders", "1"), ("orders", "2"))
    assert shop.wait_written("finished", 1) == [(2, 20)]
    assert shop.wait_written("failed", 1)[-1] == (1, "odd")
    failed = FailedJobRegistry(shop.queue, connection=shop.redis)
    (job_id,) = eventually(failed.get_job_ids)
    job = Queue(shop.queue, connection=shop.redis).fetch_job(job_id)
    assert (job.description, job.timeout) == ("fail", 30)
    assert sorted(shop.written("tries")) == [(1,), (1,), (1,), (2,)]
