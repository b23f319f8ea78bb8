"""Fixtures of the RQ dispatcher's tests: a desk, and the content of a real Redis."""

import zlib
from datetime import UTC, datetime
from types import MappingProxyType

import pytest
import redis
from rq import Queue

from pgnotifier import Batch, Delivery, Notification, Subscription
from pgnotifier.contrib.rq import RQDispatcher
from pgnotifier.dispatch import Binding
from pgnotifier.payload import decode

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Desk:
    """Subscribes to a dispatcher, and hands it notifications, as a notifier would."""

    def __init__(self, queue):
        self.dispatcher = RQDispatcher(queue)
        self.reported = []

    def subscribe(self, fn, id="a", channel="ch", **options):
        """Bind a subscription."""
        subscription = Subscription(id, channel, fn, self.dispatcher, MappingProxyType(options))
        target = self.dispatcher.bind(subscription)
        return Binding(subscription, target, lambda exc, *_: self.reported.append(exc))

    def batch(self, *pairs):
        """Return a batch, given pairs of a binding and a raw payload."""
        return Batch(
            Delivery(
                binding,
                Notification(binding.subscription.channel, decode(raw), raw, 7, NOW),
            )
            for binding, raw in pairs
        )

    def deliver(self, binding, *raws):
        """Dispatch notifications with these raw payloads; return what is left of the batch."""
        batch = self.batch(*((binding, raw) for raw in raws))
        self.dispatcher.dispatch(batch)
        return batch.rest()


@pytest.fixture
def client(pgnotifier_redis_url):
    """Yield a connection to a Redis database of the test's own."""
    with redis.Redis.from_url(pgnotifier_redis_url) as client:
        yield client


@pytest.fixture
def desk(client):
    """Return a desk that enqueues jobs to the queue `default`."""
    return Desk(client)


@pytest.fixture
def make_desk():
    """Return a function that makes a desk, given a queue, a connection or a URL."""
    return Desk


@pytest.fixture
def jobs(client):
    """Return a function that fetches the jobs of a queue, in order."""

    def fetch(name="default", **settings):
        return Queue(name, connection=client, **settings).jobs

    return fetch


@pytest.fixture
def take_all(client):
    """Return a function that empties Redis, and returns everything that was in it.

    Job ids are replaced by numbers, in order; times are left out; data is decompressed.
    """

    def take():
        numbers = {}
        queues = sorted(key for key in client.scan_iter() if key.startswith(b"rq:queue:"))
        for key in queues:
            for job_id in client.lrange(key, 0, -1):
                numbers[job_id] = f"job {len(numbers)}".encode()
        found = {}
        for key in client.scan_iter():
            kind = client.type(key)
            if key.startswith(b"pgnotifier:rq:"):
                assert 0 < client.ttl(key) <= 24 * 3600
                continue
            if kind == b"hash":
                fields = client.hgetall(key)
                fields[b"data"] = zlib.decompress(fields[b"data"])
                for name in (b"created_at", b"enqueued_at"):
                    assert abs(_age(fields.pop(name))) < 60
                job_id = key.removeprefix(b"rq:job:")
                assert job_id in numbers, "a job that is on no queue"
                key, content = numbers[job_id], fields
            elif kind == b"list":
                content = [numbers[job_id] for job_id in client.lrange(key, 0, -1)]
            else:
                assert kind == b"set"
                content = client.smembers(key)
            found[key] = (content, client.ttl(key))
        client.flushdb()
        return found

    return take


def _age(text):
    then = datetime.strptime(text.decode(), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return (datetime.now(UTC) - then).total_seconds()
