"""Batches with a payload that a queue can't carry: the others arrive, and it is reported alone.

pgnotifier's own decoder makes no such payloads; a user's decoder may.
"""

import threading

import pytest
from celery import Celery
from redis import Redis
from rq import Queue
from rq.serializers import DefaultSerializer, JSONSerializer

from pgnotifier import Notifier
from pgnotifier.contrib.celery import CeleryDispatcher
from pgnotifier.contrib.rq import RQDispatcher
from pgnotifier.testing.contract import first

BATCHES = ["0", "bad 0", "1"], ["bad 1", "2", "3"], ["4", "5", "bad 2"], ["6", "bad 3", "7"]
TEXTS = [text for batch in BATCHES for text in batch]
FIT = [[[text] for text in batch if not text.startswith("bad")] for batch in BATCHES]
UNFIT = [(text, 1) for text in TEXTS if text.startswith("bad")]


def decode(text):
    """Decode a text as a user's decoder might, into an unfit payload if it begins with `bad`."""
    return threading.Lock() if text.startswith("bad") else [text]


@pytest.fixture
def enqueue(pgnotifier_dsn, db, eventually):
    """Return a function that has a dispatcher enqueue texts in batches of three.

    It returns the text and count of each payload that was reported.
    """

    def enqueue(dispatcher, fn, texts=TEXTS, channel="a"):
        reported = []
        notifier = Notifier(
            pgnotifier_dsn,
            dispatcher=dispatcher,
            decoder=decode,
            on_error=lambda exc, subscription, arrived: reported.append(
                (arrived.raw, arrived.count)
            ),
        )
        notifier.subscribe("a", channel, fn, batch=(3, 60))
        notifier.start()
        for text in texts:
            db.notify(channel, text)
        eventually(lambda: notifier.status().received >= len(texts))
        assert notifier.stop(60) == 0
        return reported

    return enqueue


@pytest.mark.parametrize("serializer", [DefaultSerializer, JSONSerializer])
def test_rq(enqueue, broker_url, serializer):
    """With RQ, only unfit payloads are reported, both with pickle and with JSON."""
    with Redis.from_url(broker_url) as connection:
        queue = Queue(connection=connection, serializer=serializer)
        reported = enqueue(RQDispatcher(queue), first)
        assert [job.args[-2] for job in queue.jobs] == FIT
    assert reported == UNFIT


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_celery(enqueue, broker_url, serializer):
    """With Celery, only unfit payloads are reported, in first messages and in stamped ones."""
    with Celery("unfit", broker=broker_url, set_as_current=False) as app:

        @app.task(name="work", serializer=serializer, shared=False)  # for this app only
        def work(*arguments):
            """Take a callback's four arguments."""

        assert enqueue(CeleryDispatcher(app), work) == UNFIT
        with app.connection() as connection:
            queue = connection.SimpleQueue("celery", no_ack=True, accept=[serializer])
            arguments = [queue.get(timeout=30).payload[0] for _ in FIT]
            queue.close()
    assert [payload for _, _, payload, _ in arguments] == FIT


@pytest.mark.parametrize("serializer", [DefaultSerializer, JSONSerializer])
def test_nothing_is_left(enqueue, broker_url, serializer):
    """A batch of unfit payloads only is reported as a whole, and nothing of it is enqueued."""
    with Redis.from_url(broker_url) as connection:
        queue = Queue(connection=connection, serializer=serializer)
        reported = enqueue(RQDispatcher(queue), first, ["bad 1", "bad 2", "bad 3", "1"])
        assert [job.args[-2] for job in queue.jobs] == [[["1"]]]
    assert reported == [("bad 3", 3)]
