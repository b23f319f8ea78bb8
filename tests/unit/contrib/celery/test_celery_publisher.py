"""Publishing in batches: order, what fails, and what changes between them."""

import base64
import json
from collections import deque
from datetime import UTC, datetime, timedelta

import pytest
import redis
from brokered import TEXTS, callback, failing, own, take_messages, twice
from celery import signals
from kombu.exceptions import OperationalError

from pgnotifier.contrib.celery import publisher as publisher_module
from pgnotifier.contrib.celery.carriers import RedisCarrier


@pytest.mark.parametrize("signal", ["before_task_publish", "after_task_publish"])
def test_receivers_are_called(make_app, make_desk, pressed, pgnotifier_redis_url, signal):
    """Receivers that come and go are called, and what they change is in the message."""
    desk = make_desk(make_app())
    binding = desk.subscribe(callback)
    desk.deliver(binding, *TEXTS)
    assert len(pressed) == len(TEXTS) - 2
    take_messages(pgnotifier_redis_url)
    calls = []

    def receive(sender, headers, **_):
        calls.append(sender)
        headers["trace"] = len(calls)

    getattr(signals, signal).connect(receive)
    try:
        desk.deliver(binding, *TEXTS)
    finally:
        getattr(signals, signal).disconnect(receive)
    assert calls == ["pgnotifier.a"] * len(TEXTS)
    (messages,) = take_messages(pgnotifier_redis_url).values()
    traces = [message["headers"].get("trace") for message in messages]
    before = signal == "before_task_publish"
    assert traces == [number if before else None for number in range(1, len(TEXTS) + 1)]
    desk.deliver(binding, "1")
    assert len(pressed) == len(TEXTS) - 1


def test_routes_that_change(make_app, make_desk, pressed, pgnotifier_redis_url):
    """A change of `task_routes` holds from the next batch on."""
    app = make_app()
    desk = make_desk(app)
    binding = desk.subscribe(callback)
    desk.deliver(binding, *TEXTS)
    assert list(take_messages(pgnotifier_redis_url)) == ["celery"]
    app.conf.update(task_routes={"pgnotifier.a": {"queue": "moved"}})
    desk.deliver(binding, *TEXTS)
    assert list(take_messages(pgnotifier_redis_url)) == ["moved"]


def test_order_across_queues_and_ways(make_app, make_desk, pgnotifier_redis_url):
    """What is stamped and what isn't, to one queue or another, stays in order in each queue."""
    app = make_app()
    desk = make_desk(app)
    one = desk.subscribe(callback, id="one")
    two = desk.subscribe(callback, id="two", queue="low")
    three = desk.subscribe(twice(own(app)), id="three")
    bindings = [one, three, two, one, one, three, two, two]
    pairs = [(bindings[n % len(bindings)], str(n)) for n in range(1200)]
    assert not desk.dispatch(*pairs)
    found = take_messages(pgnotifier_redis_url)
    payloads = {
        key: [json.loads(base64.b64decode(m["body"]))[0][2] for m in messages]
        for key, messages in found.items()
    }
    assert payloads["low"] == [n for n in range(1200) if bindings[n % 8] is two]
    assert payloads["celery"] == [n for n in range(1200) if bindings[n % 8] is not two]


def test_what_cannot_be_published_is_set_aside(make_app, make_desk, pgnotifier_redis_url):
    """One payload that the serializer refuses is reported once; the rest of the batch goes on."""
    desk = make_desk(make_app())
    binding = desk.subscribe(own(desk.app).s(), serializer="msgspec")
    huge = "1" * 40
    texts = ["1", "2", "3", huge, "4", huge, "5"]
    assert not desk.deliver(binding, *texts)
    assert len(desk.reported) == 2
    (messages,) = take_messages(pgnotifier_redis_url).values()
    assert [m["headers"]["argsrepr"].split(", ")[2] for m in messages] == list("12345")


@pytest.mark.parametrize("way", ["stamped", "apply_async"])
def test_an_answer_that_is_lost(make_app, make_desk, monkeypatch, pgnotifier_redis_url, way):
    """What may be in the broker is published again with the same ids, as tasks of their own."""
    desk = make_desk(make_app())
    binding = desk.subscribe(callback)
    desk.deliver(binding, *TEXTS)
    take_messages(pgnotifier_redis_url)
    if way == "apply_async":
        monkeypatch.setattr(publisher_module, "find_receivers", lambda: "none, but as if")
    with monkeypatch.context() as patch:
        lpush = redis.Redis.lpush

        def losing(self, *args):
            lpush(self, *args)
            raise redis.ConnectionError("no answer")

        patch.setattr(redis.Redis, "lpush", losing)
        batch = deque(desk.deliveries((binding, "1"), (binding, "2")))
        with pytest.raises((redis.ConnectionError, OperationalError)):
            desk.dispatcher.dispatch(batch)
        assert len(batch) == 2
    desk.dispatcher.dispatch(batch)
    desk.deliver(binding, "3")
    assert not batch
    assert not desk.reported
    (messages,) = take_messages(pgnotifier_redis_url).values()
    shown = [m["headers"]["argsrepr"].split(", ")[2] for m in messages]
    assert shown == (list("12123") if way == "stamped" else list("1123"))
    ids = [m["headers"]["id"] for m in messages]
    assert len(set(zip(ids, shown, strict=True))) == len(set(ids)) == 3
    assert len({m["properties"]["delivery_tag"] for m in messages}) == len(messages)


def test_times_are_those_of_the_batch(make_app, make_desk, pressed, pgnotifier_redis_url):
    """What a countdown counts from is never older than the batch, stamped or not."""
    app = make_app()
    desk = make_desk(app)
    binding = desk.subscribe(callback, countdown=60, expires=600)
    for days, texts in enumerate((["1"], TEXTS, TEXTS, ["1"])):
        app.now = lambda days=days: datetime.now(UTC) + timedelta(days=days)
        desk.deliver(binding, *texts)
        (messages,) = take_messages(pgnotifier_redis_url).values()
        assert len(messages) == len(texts)
        for message in messages:
            for name, seconds in (("eta", 60), ("expires", 600)):
                time = datetime.fromisoformat(message["headers"][name])
                ahead = (time - app.now()).total_seconds()
                assert seconds - 30 < ahead <= seconds
    assert len(pressed) > len(TEXTS)


def test_a_failure_is_reported_once(make_app, make_desk, monkeypatch, pgnotifier_redis_url):
    """Though the batch that it is in has to be tried again."""
    desk = make_desk(make_app())
    binding = desk.subscribe(own(desk.app).s(), serializer="msgspec")
    desk.deliver(binding, "1", "2", "3")
    batch = deque(desk.deliveries(*[(binding, text) for text in ("4", "1" * 40, "5")]))
    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "lpush", failing)
        with pytest.raises(redis.ConnectionError):
            desk.dispatcher.dispatch(batch)
        assert len(batch) == 3
    desk.dispatcher.dispatch(batch)
    assert len(desk.reported) == 1
    (messages,) = take_messages(pgnotifier_redis_url).values()
    assert [m["headers"]["argsrepr"].split(", ")[2] for m in messages] == list("12345")


def test_a_batch_emptied_in_the_middle(make_app, make_desk, monkeypatch, pgnotifier_redis_url):
    """`stop()` may take the batch away at any moment; the next one is published whole."""
    desk = make_desk(make_app())
    binding = desk.subscribe(callback)
    desk.deliver(binding, "1", "2")
    batch = deque(desk.deliveries(*[(binding, "3")] * 5))
    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "lpush", lambda *_: batch.clear())
        desk.dispatcher.dispatch(batch)
    texts = [str(number) for number in range(RedisCarrier.chunk + 50)]
    assert not desk.deliver(binding, *texts)
    (messages,) = take_messages(pgnotifier_redis_url).values()
    assert [m["headers"]["argsrepr"].split(", ")[2] for m in messages] == ["1", "2", *texts]


def test_ids_are_forgotten(make_app, make_desk, monkeypatch, pgnotifier_redis_url):
    """Those of deliveries that were left out of the next try, too."""
    desk = make_desk(make_app())
    binding = desk.subscribe(callback)
    desk.deliver(binding, "1", "2")
    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "lpush", failing)
        with pytest.raises(redis.ConnectionError):
            desk.deliver(binding, "3", "4")
    assert len(desk.dispatcher._ids._known) == 2
    desk.deliver(binding, "5")
    assert not desk.dispatcher._ids._known


def test_removed_subscriptions_are_left_out(make_app, make_desk, pgnotifier_redis_url):
    """What was unsubscribed or muted meanwhile isn't published, and is off the batch."""
    desk = make_desk(make_app())
    first, second = desk.subscribe(callback), desk.subscribe(callback, id="b")
    desk.dispatch(*[(first, "1"), (second, "2")] * 3)
    take_messages(pgnotifier_redis_url)
    first.live = False
    assert not desk.dispatch(*[(first, "1"), (second, "2")] * 3)
    (messages,) = take_messages(pgnotifier_redis_url).values()
    assert [m["headers"]["task"] for m in messages] == ["pgnotifier.b"] * 3
