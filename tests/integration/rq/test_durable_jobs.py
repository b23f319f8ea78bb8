"""Jobs made of entries of the durable log: their ids, and what their `meta` says."""

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job

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
