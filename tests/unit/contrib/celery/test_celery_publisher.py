"""Publishing in batches: the order, failures, and changes between batches."""

import base64
import gc
import json
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import redis
from brokered import TEXTS, answers_lost, callback, failing, own, take_messages, twice
from celery import signals
from kombu.exceptions import OperationalError

from pgnotifier import Batch, Delivery, Subscription
from pgnotifier.contrib.celery import carriers_redis
from pgnotifier.contrib.celery import publisher as publisher_module
from pgnotifier.contrib.celery.carriers_redis import RedisCarrier
from pgnotifier.contrib.celery.targets import origin
from pgnotifier.dispatch import Binding
from pgnotifier.durability import Durability
from pgnotifier.notification import Entry

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HUGE = "1" * 40
"""An integer that is too large for msgpack."""


@pytest.mark.parametrize("signal", ["before_task_publish", "after_task_publish"])
def test_receivers_are_called(make_app, make_desk, pressed, pgnotifier_redis_url, signal):
    """A receiver is called while it is connected, and what it changes before publishing is sent."""
    calls = []

    def receive(sender, headers, **_):
        calls.append(sender)
        headers["trace"] = len(calls)

    # In Celery 5.5, an app doesn't call new receivers once another one was found dead. So the dead
    # receivers of earlier tests have to be found before there is an app.
    gc.collect()
    getattr(signals, signal).connect(receive)
    getattr(signals, signal).disconnect(receive)
    desk = make_desk(make_app())
    binding = desk.subscribe(callback)
    desk.deliver(binding, *TEXTS)
    assert len(pressed) == len(TEXTS) - 2
    take_messages(pgnotifier_redis_url)
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
    """A change of `task_routes` applies from the next batch on."""
    app = make_app()
    desk = make_desk(app)
    binding = desk.subscribe(callback)
    desk.deliver(binding, *TEXTS)
    assert list(take_messages(pgnotifier_redis_url)) == ["celery"]
    app.conf.update(task_routes={"pgnotifier.a": {"queue": "moved"}})
    desk.deliver(binding, *TEXTS)
    assert list(take_messages(pgnotifier_redis_url)) == ["moved"]


@pytest.mark.slow
def test_order_across_queues_and_ways(make_app, make_desk, pgnotifier_redis_url):
    """Messages stay in order within each queue, whether they are stamped or not."""
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
    """A payload that the serializer refuses is reported once, and the rest is published."""
    desk = make_desk(make_app())
    binding = desk.subscribe(own(desk.app).s(), serializer="msgspec")
    texts = ["1", "2", "3", HUGE, "4", HUGE, "5"]
    assert not desk.deliver(binding, *texts)
    assert len(desk.reported) == 2
    (messages,) = take_messages(pgnotifier_redis_url).values()
    assert [m["headers"]["argsrepr"].split(", ")[2] for m in messages] == list("12345")


def test_a_batch_without_a_part_when_an_answer_is_lost(make_app, make_desk, pgnotifier_redis_url):
    """If an answer is lost, a part that can't be sent is reported once; the rest keeps its ids."""
    desk = make_desk(make_app())
    binding = desk.subscribe(own(desk.app).s(), serializer="msgspec")
    desk.deliver(binding, "0", "0", "0")
    take_messages(pgnotifier_redis_url)
    parts = [one.notification for one in desk.deliveries(*((binding, n) for n in ("1", HUGE, "2")))]
    whole = msgspec.structs.replace(
        parts[-1], payload=[part.payload for part in parts], count=3, parts=tuple(parts)
    )
    batch = Batch([Delivery(binding, whole), *desk.deliveries((binding, "3"))])
    with answers_lost():
        with pytest.raises((redis.ConnectionError, OperationalError)):
            desk.dispatcher.dispatch(batch)
        assert batch.remaining == 2
    desk.dispatcher.dispatch(batch)
    assert not batch.remaining
    assert len(desk.reported) == 1
    (messages,) = take_messages(pgnotifier_redis_url).values()
    shown = [m["headers"]["argsrepr"] for m in messages]
    assert ["[1, 2]" in one for one in shown] == [True, False, True, False]
    assert len({m["headers"]["id"] for m in messages}) == 2


@pytest.mark.parametrize("way", ["stamped", "apply_async"])
def test_an_answer_that_is_lost(make_app, make_desk, monkeypatch, pgnotifier_redis_url, way):
    """If an answer is lost, the tasks are published again with the same ids."""
    desk = make_desk(make_app())
    binding = desk.subscribe(callback)
    desk.deliver(binding, *TEXTS)
    take_messages(pgnotifier_redis_url)
    if way == "apply_async":
        monkeypatch.setattr(publisher_module, "find_receivers", lambda: "none, but as if")
    with answers_lost():
        batch = Batch(desk.deliveries((binding, "1"), (binding, "2")))
        with pytest.raises((redis.ConnectionError, OperationalError)):
            desk.dispatcher.dispatch(batch)
        assert batch.remaining == 2
    desk.dispatcher.dispatch(batch)
    desk.deliver(binding, "3")
    assert not batch.remaining
    assert not desk.reported
    (messages,) = take_messages(pgnotifier_redis_url).values()
    shown = [m["headers"]["argsrepr"].split(", ")[2] for m in messages]
    assert shown == (list("12123") if way == "stamped" else list("1123"))
    ids = [m["headers"]["id"] for m in messages]
    assert len(set(zip(ids, shown, strict=True))) == len(set(ids)) == 3
    assert len({m["properties"]["delivery_tag"] for m in messages}) == len(messages)


def test_an_answer_that_is_lost_later(make_app, make_desk, monkeypatch, pgnotifier_redis_url):
    """What is added together after the first messages, which Celery made, keeps its ids as well."""
    push_bytes, lost = carriers_redis.push_bytes, []

    def lose_last(client, texts_by_key, prefix):
        answers = push_bytes(client, texts_by_key, prefix)
        if not lost and any(b" 9, 7]" in text for text in texts_by_key["celery"]):
            lost.extend(answers)
            raise redis.ConnectionError("no answer")
        return answers

    monkeypatch.setattr(carriers_redis, "push_bytes", lose_last)
    desk = make_desk(make_app())
    first, second = desk.subscribe(callback), desk.subscribe(callback, id="b")
    desk.deliver(first, "0", "0", "0")
    take_messages(pgnotifier_redis_url)
    pairs = [(second, "1"), (first, "2"), (second, "3"), *((first, str(n)) for n in range(4, 10))]
    batch = Batch(desk.deliveries(*pairs))
    with pytest.raises(redis.ConnectionError):
        desk.dispatcher.dispatch(batch)
    assert batch.remaining == 6
    desk.dispatcher.dispatch(batch)
    (messages,) = take_messages(pgnotifier_redis_url).values()
    assert len(messages) == 9 + 6
    ids = {}
    for message in messages:
        ids.setdefault(shown([message])[0], set()).add(message["headers"]["id"])
    assert list(ids) == [str(n) for n in range(1, 10)]
    assert all(len(one) == 1 for one in ids.values())


def test_durable_entries_are_recognised(make_app, make_desk, pgnotifier_redis_url):
    """The ids of entries are the same whether their messages are made together or one by one."""
    desk = make_desk(make_app())
    subscription = Subscription("a", "ch", callback, desk.dispatcher, durability=Durability())
    binding = Binding(subscription, desk.dispatcher.bind(subscription), print)
    entries = [
        Entry("ch", n, str(n), 0, NOW, id=n, key="ä" if n % 2 else None, published_at=NOW)
        for n in range(1, 9)
    ]
    deliveries = [Delivery(binding, one) for one in entries]
    for _ in range(2):
        desk.dispatcher.dispatch(Batch(deliveries))
    (messages,) = take_messages(pgnotifier_redis_url).values()
    assert [m["headers"]["id"] for m in messages] == 2 * [str(one.identify()) for one in deliveries]
    assert [m["headers"]["pgnotifier"] for m in messages] == 2 * [origin(one) for one in entries]


def test_times_are_those_of_the_batch(make_app, make_desk, pressed, pgnotifier_redis_url):
    """Countdowns start at the time of the batch, whether messages are stamped or not."""
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
    """A failed delivery is reported once, even if its batch has to be tried again."""
    desk = make_desk(make_app())
    binding = desk.subscribe(own(desk.app).s(), serializer="msgspec")
    desk.deliver(binding, "1", "2", "3")
    batch = Batch(desk.deliveries(*[(binding, text) for text in ("4", "1" * 40, "5")]))
    with monkeypatch.context() as patch:
        patch.setattr(carriers_redis, "push_bytes", failing)
        with pytest.raises(redis.ConnectionError):
            desk.dispatcher.dispatch(batch)
        assert batch.remaining == 2
    desk.dispatcher.dispatch(batch)
    assert len(desk.reported) == 1
    (messages,) = take_messages(pgnotifier_redis_url).values()
    assert [m["headers"]["argsrepr"].split(", ")[2] for m in messages] == list("12345")


def test_a_batch_emptied_in_the_middle(make_app, make_desk, monkeypatch, pgnotifier_redis_url):
    """If a batch is cancelled while it is published, the whole next batch is published."""
    desk = make_desk(make_app())
    binding = desk.subscribe(callback)
    desk.deliver(binding, "1", "2")
    batch = Batch(desk.deliveries(*[(binding, "3")] * 5))

    def cancelling(*_):
        batch.cancel()
        return [len(batch)]

    with monkeypatch.context() as patch:
        patch.setattr(carriers_redis, "push_bytes", cancelling)
        desk.dispatcher.dispatch(batch)
    texts = [str(number) for number in range(RedisCarrier.chunk + 50)]
    assert not desk.deliver(binding, *texts)
    (messages,) = take_messages(pgnotifier_redis_url).values()
    assert [m["headers"]["argsrepr"].split(", ")[2] for m in messages] == ["1", "2", *texts]


def test_ids_are_forgotten(make_app, make_desk, monkeypatch, pgnotifier_redis_url):
    """After a success no ids are kept, not even of deliveries that weren't tried again."""
    desk = make_desk(make_app())
    binding = desk.subscribe(callback)
    desk.deliver(binding, "1", "2")
    with monkeypatch.context() as patch:
        patch.setattr(carriers_redis, "push_bytes", failing)
        with pytest.raises(redis.ConnectionError):
            desk.deliver(binding, "3", "4")
    assert len(desk.dispatcher._ids._known) == 2
    desk.deliver(binding, "5")
    assert not desk.dispatcher._ids._known


def test_removed_subscriptions_are_left_out(make_app, make_desk, pgnotifier_redis_url):
    """Deliveries to a removed subscription aren't published, and are removed from the batch."""
    desk = make_desk(make_app())
    first, second = desk.subscribe(callback), desk.subscribe(callback, id="b")
    desk.dispatch(*[(first, "1"), (second, "2")] * 3)
    take_messages(pgnotifier_redis_url)
    first.live = False
    assert not desk.dispatch(*[(first, "1"), (second, "2")] * 3)
    (messages,) = take_messages(pgnotifier_redis_url).values()
    assert [m["headers"]["task"] for m in messages] == ["pgnotifier.b"] * 3


# --- many queues --------------------------------------------------------------------------------


def shown(messages):
    """Return the payloads of messages, as text."""
    return [m["headers"]["argsrepr"].split(", ")[2] for m in messages]


def test_many_queues(make_app, make_desk, pgnotifier_redis_url):
    """Tasks for many queues and priorities are sent with one push for each, in order."""
    desk = make_desk(make_app())
    bindings = [desk.subscribe(callback, id=str(n), queue=f"q{n}") for n in range(7)]
    bindings.append(desk.subscribe(callback, id="7", queue="q0", priority=6))
    desk.dispatch(*((binding, str(n)) for n in (-2, -1) for binding in bindings))
    take_messages(pgnotifier_redis_url)
    with redis.Redis.from_url(pgnotifier_redis_url) as client:
        client.config_resetstat()
        desk.dispatch(*((bindings[n % 8], str(n)) for n in range(400)))
        stats = client.info("commandstats")
    assert stats["cmdstat_lpush"]["calls"] == 8
    assert "cmdstat_exec" not in stats
    found = take_messages(pgnotifier_redis_url)
    assert found.keys() == {f"q{n}" for n in range(7)} | {"q0\x06\x166"}
    for number, key in enumerate([*(f"q{n}" for n in range(7)), "q0\x06\x166"]):
        assert shown(found[key]) == [str(n) for n in range(number, 400, 8)]


@pytest.mark.parametrize("stamped", [True, False])
def test_a_queue_that_is_not_a_list(make_app, make_desk, pgnotifier_redis_url, stamped):
    """If a queue's key isn't a list, its tasks are reported, and all others are enqueued once."""
    desk = make_desk(make_app())
    good, bad = desk.subscribe(callback, id="g"), desk.subscribe(callback, id="b", queue="bad")
    if stamped:
        desk.dispatch(*[(good, "-1"), (bad, "-1")] * 2)
        take_messages(pgnotifier_redis_url)
    with redis.Redis.from_url(pgnotifier_redis_url) as client:
        client.set("bad", "of something else")
        assert not desk.dispatch(*(((good, bad)[n % 2], str(n)) for n in range(10)))
        assert not desk.dispatch(*((bad, str(n)) for n in (10, 11)))
        assert client.get("bad") == b"of something else"
    assert shown(take_messages(pgnotifier_redis_url)["celery"]) == ["0", "2", "4", "6", "8"]
    assert ["WRONGTYPE" in str(exc) for exc in desk.reported] == [True] * 7


def test_a_push_that_is_refused_for_now(make_app, make_desk, monkeypatch, pgnotifier_redis_url):
    """If Redis refuses a push for now, only its tasks are tried again, with the same ids."""
    desk = make_desk(make_app())
    bindings = [desk.subscribe(callback, id=f"{n}", queue=f"q{n}") for n in range(3)]
    desk.dispatch(*((binding, "-1") for binding in bindings for _ in range(2)))
    take_messages(pgnotifier_redis_url)
    batch = Batch(desk.deliveries(*((bindings[n % 3], str(n)) for n in range(9))))
    refused = []
    push_bytes = carriers_redis.push_bytes

    def refusing(client, texts_by_key, prefix):
        refused.extend(json.loads(text)["headers"]["id"] for text in texts_by_key.pop("q1"))
        first, second = push_bytes(client, texts_by_key, prefix)
        return [first, redis.exceptions.ReadOnlyError("a replica now"), second]

    with monkeypatch.context() as patch:
        patch.setattr(carriers_redis, "push_bytes", refusing)
        with pytest.raises(redis.exceptions.ReadOnlyError):
            desk.dispatcher.dispatch(batch)
    assert [delivery.notification.raw for delivery in batch.rest()] == ["1", "4", "7"]
    assert not desk.dispatcher.dispatch(batch)
    assert not batch.remaining
    found = take_messages(pgnotifier_redis_url)
    assert [shown(found[f"q{n}"]) for n in range(3)] == [list("036"), list("147"), list("258")]
    assert [m["headers"]["id"] for m in found["q1"]] == refused


def test_an_answer_for_many_queues_that_is_lost(make_app, make_desk, pgnotifier_redis_url):
    """If the answer to several pushes is lost, all are published again with the same ids."""
    desk = make_desk(make_app())
    bindings = [desk.subscribe(callback, id=f"{n}", queue=f"q{n}") for n in range(2)]
    desk.dispatch(*((binding, "-1") for binding in bindings for _ in range(2)))
    take_messages(pgnotifier_redis_url)
    batch = Batch(desk.deliveries(*((bindings[n % 2], str(n)) for n in range(6))))
    with answers_lost(), pytest.raises(redis.ConnectionError):
        desk.dispatcher.dispatch(batch)
    assert batch.remaining == 6
    desk.dispatcher.dispatch(batch)
    found = take_messages(pgnotifier_redis_url)
    assert [shown(found[f"q{n}"]) for n in range(2)] == [list("024024"), list("135135")]
    for messages in found.values():
        ids = [m["headers"]["id"] for m in messages]
        assert ids[:3] == ids[3:]


def test_serializers_of_many_queues(make_app, make_desk, pgnotifier_redis_url):
    """Subscriptions to one channel may each have a serializer and a queue of their own."""
    desk = make_desk(make_app())
    kinds = ["json", "pickle", "msgspec"]
    bindings = [desk.subscribe(callback, id=k, queue=k, serializer=k) for k in kinds]
    assert not desk.dispatch(*((binding, text) for text in TEXTS for binding in bindings))
    found = take_messages(pgnotifier_redis_url)
    assert {key: len(messages) for key, messages in found.items()} == dict.fromkeys(kinds, 10)
    assert len({m["headers"]["argsrepr"] for m in found["pickle"]}) == len(TEXTS)
