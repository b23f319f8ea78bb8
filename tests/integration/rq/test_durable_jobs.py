"""Jobs made of entries of the durable log: their ids, and what their `meta` says."""

from datetime import UTC, datetime

import pytest
from preforked import Cold
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from pgnotifier import current_entry
from pgnotifier.contrib.rq import RQDispatcher


def work(id, channel, payload, pid):
    """Do nothing: no worker runs."""


@pytest.fixture
def queue(broker):
    """Yield an empty queue of this test."""
    with Redis.from_url(broker) as connection:
        queue = Queue("durable-jobs", connection=connection)
        yield queue
        queue.delete(delete_jobs=True)


def test_a_repeated_entry_has_the_same_job_id(log, make_notifier, queue, eventually):
    """A job's id is made of entry and subscription; `meta` has id, key, time and attempt."""
    notifier = make_notifier(log.dsn, dispatcher=RQDispatcher(queue))
    notifier.subscribe("invoice", "paid", work, durable=True, meta={"mine": 1})
    notifier.start()
    ids = [log.publish("paid", n, key=f"k{n}")[0] for n in range(3)]
    eventually(lambda: queue.count == 3)
    before = queue.job_ids
    assert len(set(before)) == 3
    jobs = [Job.fetch(one, connection=queue.connection) for one in before]
    assert [job.meta["pgnotifier"]["id"] for job in jobs] == ids
    assert [job.meta["pgnotifier"]["key"] for job in jobs] == ["k0", "k1", "k2"]
    assert jobs[0].meta["mine"] == 1
    assert jobs[0].args == ("invoice", "paid", 0, 0)
    notifier.seek("invoice", "paid", "oldest")
    eventually(lambda: queue.count == 6)
    assert queue.job_ids == [*before, *before]


def test_a_notification_makes_a_plain_job(log, make_notifier, queue, eventually):
    """Jobs of volatile subscriptions have random ids, and `meta` as it was given."""
    notifier = make_notifier(log.dsn, dispatcher=RQDispatcher(queue))
    notifier.subscribe("plain", "plain", work)
    notifier.start()
    log.notify("plain", 1)
    eventually(lambda: queue.count == 1)
    (job,) = (Job.fetch(one, connection=queue.connection) for one in queue.job_ids)
    assert job.meta == {}


found = []


def find(id, channel, payload, pid):
    """Keep the entry, and the payload that was given."""
    found.append((payload, current_entry()))


class Worker(SimpleWorker):
    """Runs jobs in this process."""

    death_penalty_class = TimerDeathPenalty


@pytest.mark.parametrize("serializer", [None, JSONSerializer], ids=["pickle", "json"])
@pytest.mark.parametrize("at_once", [False, True])
def test_the_entry_of_a_job(log, make_notifier, queue, eventually, serializer, at_once):
    """`current_entry()` is the entry in a job, and there is none in a volatile subscription's."""
    found.clear()
    queue = Queue(
        queue.name, connection=queue.connection, serializer=serializer, is_async=not at_once
    )
    notifier = make_notifier(log.dsn, dispatcher=RQDispatcher(queue))
    notifier.subscribe("invoice", "paid", find, durable=True, meta={"mine": 1})
    notifier.subscribe("invoices", "paid", find, durable=True, batch=(2, 60))
    notifier.subscribe("plain", "plain", find)
    notifier.start()
    before = datetime.now(UTC)
    first, second = (log.publish("paid", payload, key="k")[0] for payload in ("(1, 2)", "2"))
    log.notify("plain", 3)
    if not at_once:
        eventually(lambda: queue.count == 4)
        Worker([queue], connection=queue.connection, serializer=serializer).work(burst=True)
    eventually(lambda: len(found) == 4)
    by_payload = {repr(payload): entry for payload, entry in found}
    assert by_payload.pop("3") is None
    for payload, number in (("(1, 2)", first), ("2", second), ("[(1, 2), 2]", second)):
        entry = by_payload[payload]
        assert (entry.id, entry.key, entry.attempt) == (number, "k", 1)
        assert repr(entry.payload) == payload
        assert before <= entry.received_at <= datetime.now(UTC)
        assert entry.published_at is not None
        assert entry.count == (2 if payload.startswith("[") else 1)


def test_a_worker_without_our_package_for_rq(log, open_shop):
    """The job finds its entry, even if its module doesn't import `pgnotifier.contrib.rq`."""
    shop = open_shop("""
        import invoices
        notifier.subscribe("invoice", "paid", invoices.make, durable=True, start="oldest")
    """)
    (shop.directory / "invoices.py").write_text(MODULE)
    shop.listener()
    shop._start = Cold  # in a fork, everything is imported already
    shop.worker()
    (number,) = log.publish("paid", 7)
    assert shop.wait_written("made", 1) == [(number, 7, False)]


MODULE = """
import os, sys
import redis
from pgnotifier import current_entry

def make(id, channel, payload, pid):
    entry = current_entry()
    facts = (entry.id, entry.payload, "pgnotifier.contrib.rq" in sys.modules)
    redis.Redis.from_url(os.environ["BROKER"]).rpush(os.environ["QUEUE"] + ":made", ascii(facts))
"""
