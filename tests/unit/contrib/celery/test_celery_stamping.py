"""Stamped messages: equal to what `apply_async` puts into the broker, ids and times aside."""

import base64
import functools
import json
import re
import uuid
import zlib
from collections import deque
from datetime import UTC, datetime, timedelta

import pytest
import redis
from celery import Celery, Task, chain, signals
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange, Queue, serialization
from kombu.exceptions import OperationalError

from pgnotifier.contrib.celery import publisher as publisher_module
from pgnotifier.contrib.celery.argsrepr import show_arguments
from pgnotifier.contrib.celery.recording import publish_recorded
from pgnotifier.contrib.celery.stamping import Stamp, UnstampableError, new_id

TEXTS = [
    '{"id": 1, "item": "tea", "amount": 2.5}',
    '{"id": 2, "item": "\\u00e9\\"\'\\\\", "tags": [[1], {"a": {"b": null}}]}',
    "{1: (2, b'x')}",
    "plain words",
    "",
    '{"__type__": "datetime", "__value__": "x"}',
    "[1e999, true, 123456789012345678901234567890]",
    json.dumps({"long": "x" * 3000}),
    "(1, {2}, ..., nan)",
    "1",
]
LATER = datetime.now(UTC) + timedelta(hours=1)


class Overriding(Task):
    """A Task class that publishes in its own way."""

    def apply_async(self, args=None, kwargs=None, **options):
        """Add a header."""
        return super().apply_async(args, kwargs, **options, headers={"mine": "yes"})


class Entering(Task):
    """A Task class that runs in its own way, and publishes in Celery's."""

    priority = 6

    def __call__(self, *args, **kwargs):
        """Run it."""
        return super().__call__(*args, **kwargs)


def route_by_payload(name, args, kwargs, options, task=None, **_):
    return {"queue": "long" if len(str(args)) > 200 else "short"}


def callback(*_):
    """Do nothing."""


def own(app, **settings):
    @app.task(name="own", **settings)
    def own(*args, **kwargs):
        """Do nothing."""

    return own


STAMPED = {
    "a callback": (lambda _: callback, {}, {}),
    "a task": (own, {}, {}),
    "a signature": (lambda app: own(app).s("x", 1.5, key={"a": (1,)}), {}, {}),
    "an immutable signature": (lambda app: own(app).si("x"), {}, {}),
    "an empty immutable signature": (lambda app: own(app).si(), {}, {}),
    "a signature's options": (lambda app: own(app).s().set(queue="low", priority=3), {}, {}),
    "a stamped signature": (lambda app: stamped(own(app).s(1)), {}, {}),
    "a task of another program": (lambda app: app.signature("elsewhere.task", args=(1,)), {}, {}),
    "a Task class": (lambda app: own(app, base=Entering), {}, {}),
    "a task's settings": (lambda app: own(app, serializer="pickle", time_limit=9), {}, {}),
    "a queue": (lambda _: callback, {"queue": "low"}, {}),
    "a priority": (lambda _: callback, {"priority": 6}, {}),
    "a route": (
        lambda _: callback,
        {},
        {"task_routes": {"pgnotifier.*": {"queue": "low", "priority": 9}}},
    ),
    "pickle": (lambda _: callback, {"serializer": "pickle"}, {}),
    "pickle of a signature": (lambda app: own(app).s(1), {"serializer": "pickle"}, {}),
    "a serializer of the app": (own, {}, {"task_serializer": "pickle"}),
    "another serializer": (lambda _: callback, {"serializer": "msgspec"}, {}),
    "compression": (lambda _: callback, {"compression": "zlib"}, {}),
    "compression of the app": (own, {}, {"task_compression": "zlib"}),
    "expires": (lambda _: callback, {"expires": 60}, {}),
    "expires at": (lambda _: callback, {"expires": LATER}, {}),
    "countdown": (lambda _: callback, {"countdown": 5}, {}),
    "eta": (own, {"eta": LATER}, {}),
    "headers": (lambda _: callback, {"headers": {"trace": "abc"}}, {}),
    "shadow": (lambda _: callback, {"shadow": "shown"}, {}),
    "limits": (lambda _: callback, {"time_limit": 5, "soft_time_limit": 3}, {}),
    "results": (lambda _: callback, {"ignore_result": False}, {}),
    "delivery mode": (lambda _: callback, {"delivery_mode": "transient"}, {}),
    "links": (lambda app: linked(own(app)), {}, {}),
    "a key prefix": (
        own,
        {},
        {"broker_transport_options": {"global_keyprefix": "shop:"}},
    ),
    "a separator of priorities": (
        own,
        {"priority": 4},
        {"broker_transport_options": {"sep": ":", "priority_steps": [0, 4, 8]}},
    ),
    "levels of the repr": (own, {}, {"task_repr_maxlevels": 1}),
}
UNSTAMPED = {
    "a chain": (lambda app: twice(own(app)), {}, {}, "canvas"),
    "apply_async": (lambda app: own(app, base=Overriding), {}, {}, r"Overriding|apply_async"),
    "protocol 1": (own, {}, {"task_protocol": 1}, "task_protocol is 1"),
    "events": (own, {}, {"task_send_sent_event": True}, "task_send_sent_event"),
    "a router": (own, {}, {"task_routes": [route_by_payload]}, "task_routes has a function"),
    "an exchange": (
        own,
        {"queue": Queue("low", Exchange("topics", "topic"), routing_key="low")},
        {},
        "exchange",
    ),
    "a fanout": (own, {"queue": Queue("all", Exchange("all", "fanout"))}, {}, "one queue"),
    "another app's task": (lambda app: own(clone(app)), {}, {}, "another app's"),
    "a patched task": (lambda app: patched(own(app)), {}, {}, "apply_async isn't"),
    "rpc results": (
        lambda _: callback,
        {"ignore_result": False},
        {"result_backend": "rpc://"},
        "RPCBackend",
    ),
}


def clone(app):
    return Celery("other", broker=app.conf.broker_url, set_as_current=False)


def patched(task):
    task.apply_async = functools.partial(task.apply_async, headers={"trace": "abc"})
    return task


def stamped(signature):
    signature.stamp(tenant="acme")
    return signature


def twice(task):
    return chain(task.s(1), task.si(2))


def linked(task):
    return task.s().on_error(task.s("failed")).set(link=[task.s("done")])


@pytest.fixture
def make_app(pgnotifier_redis_url):
    """Return a function that makes an app with a real broker."""

    def make(**conf):
        app = Celery("shop", broker=pgnotifier_redis_url, set_as_current=False)
        app.conf.update({"result_backend": pgnotifier_redis_url, **conf})
        return app

    return make


@pytest.fixture
def pressed(monkeypatch):
    """Return the ids of the tasks whose messages were stamped."""
    ids, press = [], Stamp.press

    def counting(self, given, task_id, tag):
        ids.append(task_id)
        return press(self, given, task_id, tag)

    monkeypatch.setattr(publisher_module.Stamp, "press", counting)
    return ids


def failing(self, *_):
    raise redis.ConnectionError("down")


def take_messages(url):
    """Take all messages out of the broker: by list, in the order that they were put there."""
    found = {}
    with redis.Redis.from_url(url) as client:
        for key in sorted(client.keys()):
            if client.type(key) == b"list":
                found[key.decode()] = [json.loads(m) for m in reversed(client.lrange(key, 0, -1))]
        client.flushdb()
    return found


def normalised(message, ids):
    """Return a message with ids and times replaced, and its body as the worker sees it."""
    headers, properties = message["headers"], message["properties"]
    ids.append((properties["correlation_id"], properties["delivery_tag"]))
    data = base64.b64decode(message["body"])
    if headers.get("compression") == "application/x-gzip":
        data = zlib.decompress(data)
    body = serialization.loads(
        data,
        message["content-type"],
        message["content-encoding"],
        accept=[message["content-type"]],
    )
    text = json.dumps({**message, "body": repr(body)}, sort_keys=True)
    for name in ("eta", "expires"):
        if headers.get(name):
            time = datetime.fromisoformat(headers[name])
            assert abs((time - datetime.now(UTC)).total_seconds()) < 3700
            text = text.replace(headers[name], "TIME")
    if "expiration" in properties:
        assert 0 < int(properties["expiration"]) <= 3_600_000
        text = text.replace(f'"expiration": "{properties["expiration"]}"', '"expiration": "MS"')
    return text.replace(properties["correlation_id"], "ID").replace(
        properties["delivery_tag"], "TAG"
    )


def published(desk, binding, url, texts=TEXTS):
    """Return what a batch becomes in the broker, and the ids of its tasks."""
    assert not desk.deliver(binding, *texts)
    ids = []
    found = {
        key: [normalised(message, ids) for message in messages]
        for key, messages in take_messages(url).items()
    }
    assert len(set(ids)) == len(ids) == len(texts)
    return found, [task_id for task_id, _ in ids]


@pytest.mark.parametrize("case", STAMPED)
def test_conformance(make_app, make_desk, pressed, monkeypatch, pgnotifier_redis_url, case):
    """From the third on, messages are stamped, and the same as if Celery had made each."""
    make_fn, options, conf = STAMPED[case]
    app = make_app(**conf)
    desk = make_desk(app)
    binding = desk.subscribe(make_fn(app), **options)
    # The last time for the messages that hold times, which are taken over from the first one.
    found, ids = published(desk, binding, pgnotifier_redis_url)
    found, ids = published(desk, binding, pgnotifier_redis_url)
    again = [task_id for task_id in ids if task_id in pressed]
    assert len(again) >= len(TEXTS) - 1
    del pressed[:]
    monkeypatch.setattr(publisher_module, "find_receivers", lambda: "none, but as if")
    expected, _ = published(desk, binding, pgnotifier_redis_url)
    assert not pressed
    assert found == expected
    assert desk.reported == []


@pytest.mark.parametrize("case", UNSTAMPED)
def test_obstacles(make_app, make_desk, pressed, caplog, pgnotifier_redis_url, case):
    """What a stamp could get wrong is left to Celery, and the debug log says why."""
    make_fn, options, conf, reason = UNSTAMPED[case]
    app = make_app(**conf)
    desk = make_desk(app)
    with caplog.at_level("DEBUG", logger="pgnotifier.celery"):
        binding = desk.subscribe(make_fn(app), **options)
        assert not desk.deliver(binding, *TEXTS[:2])
        del pressed[:]  # what a stamp was compared with
        assert not desk.deliver(binding, *TEXTS)
    assert pressed == []
    assert desk.reported == []
    (record,) = [r for r in caplog.records if "apply_async" in r.getMessage()]
    assert re.search(reason, record.getMessage())


@pytest.mark.parametrize("signal", ["before_task_publish", "after_task_publish"])
def test_receivers_are_called(make_app, make_desk, pressed, pgnotifier_redis_url, signal):
    """Receivers that come and go are called, and what they change is in the message."""
    desk = make_desk(make_app())
    binding = desk.subscribe(callback)
    desk.deliver(binding, *TEXTS)
    assert len(pressed) == len(TEXTS) - 1  # one of them to compare
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
    assert len(pressed) == len(TEXTS)


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
    texts = [str(number) for number in range(publisher_module.CHUNK + 50)]
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


def test_arguments_that_change_on_their_way(make_app, make_desk):
    """A stamp that would not make what Celery has made is none."""
    desk = make_desk(make_app())
    target = desk.subscribe(callback).target
    first, second = (desk.deliveries((desk.subscribe(callback), text))[0] for text in "12")
    with desk.app.connection_for_write() as connection:
        producer = desk.app.amqp.Producer(connection, auto_declare=False)
        (like,) = publish_recorded(target, target.arguments(first), producer, new_id())
        (other,) = publish_recorded(target, target.arguments(second), producer, new_id())
        stamp = Stamp(like, target, producer.channel)
        stamp.check(other)
        other.body = ([*other.body[0][:2], "another", 7], *other.body[1:])
        with pytest.raises(UnstampableError, match="arguments"):
            stamp.check(other)


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


def test_ids():
    """They are random UUIDs."""
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    for one in ids:
        parsed = uuid.UUID(one)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, one)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=5)
        | st.tuples(inner, inner)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=12,
)


@given(
    st.lists(VALUES, max_size=5) | st.tuples(VALUES, VALUES, VALUES, VALUES),
    st.integers(0, 300) | st.just(1024),
    st.integers(0, 4),
)
def test_arguments_are_shown_as_celery_does(arguments, size, levels):
    """The short cut shows just what Celery's `saferepr` does."""
    assert show_arguments(arguments, size, levels) == saferepr(arguments, size, maxlevels=levels)
