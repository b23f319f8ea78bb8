"""An outbox's jobs and their relay, without a database between them."""

import json
import re
import time
import zlib
from datetime import UTC, datetime
from itertools import count
from types import MappingProxyType

from pgnotifier import Batch, Delivery, Subscription
from pgnotifier.contrib.rq.job_capture import JobCapture
from pgnotifier.contrib.rq.outbox_jobs import draft
from pgnotifier.contrib.rq.relay import JobRelayDispatcher
from pgnotifier.dispatch import Binding
from pgnotifier.durability import Durability
from pgnotifier.notification import Entry

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def texts_of(queue, *calls):
    """Return the payloads of the entries for jobs that functions enqueue, given a queue."""
    capture = JobCapture(queue)
    for call in calls:
        call(capture.queue)
    return [draft(made)[1] for made in capture.take(len(calls))]


class RelayDesk:
    """A relay, which gets entries as its source would give them."""

    def __init__(self, queue, name="default", allow=()):
        self.relay = JobRelayDispatcher(queue, name, allow=allow)
        self.reported = []
        given = (self.relay.id, self.relay.channel, print, self.relay)
        subscription = Subscription(
            *given, MappingProxyType({}), durability=Durability(start="now")
        )
        self.binding = Binding(
            subscription, self.relay.bind(subscription), lambda exc, *_: self.reported.append(exc)
        )
        self._numbers = count(1)

    def entries(self, *texts):
        """Return entries with these payloads."""
        return [
            Entry(self.relay.channel, text, text, 0, NOW, id=next(self._numbers), published_at=NOW)
            for text in texts
        ]

    def deliver(self, *entries):
        """Have entries relayed; return what is left of them."""
        batch = Batch(Delivery(self.binding, entry) for entry in entries)
        try:
            self.relay.dispatch(batch)
        finally:
            self.left = [one.notification for one in batch.rest()]
        return self.left

    def relay_texts(self, *texts):
        """Have new entries with these payloads relayed."""
        return self.deliver(*self.entries(*texts))

    def ask(self, **request):
        """Have relayed what SQL asks for."""
        return self.relay_texts(json.dumps(request))

    @property
    def relayed(self):
        """How many jobs were enqueued, by function."""
        return self.relay.details()["relayed"]


def snapshot(client):
    """Return everything that is in Redis but the relay's notes, and empty it.

    The times of jobs and registries are replaced; data is decompressed.
    """
    found = {}
    for key in client.scan_iter():
        if key.startswith(b"pgnotifier:rq:"):
            assert 0 < client.ttl(key) <= 24 * 3600
            continue
        kind = client.type(key)
        if kind == b"hash":
            content = client.hgetall(key)
            if b"data" in content:
                content[b"data"] = zlib.decompress(content[b"data"])
            for name in (b"created_at", b"enqueued_at"):
                if name in content:
                    assert TIME.fullmatch(content[name])
                    content[name] = b"some time"
        elif kind == b"list":
            content = client.lrange(key, 0, -1)
        elif kind == b"zset":
            content = [
                (member, "now" if abs(score - time.time()) < 60 else score)
                for member, score in client.zrange(key, 0, -1, withscores=True)
            ]
        else:
            content = client.smembers(key)
        found[key] = (content, client.ttl(key))
    client.flushdb()
    return found
