"""What an outbox captures equals, byte by byte, what `apply_async` pushes to Redis.

Only ids and times differ. The body is compared as what the worker reads: it has ids, too.
"""

import gc
from datetime import UTC, datetime, timedelta

import pytest
from brokered import TEXTS, own
from captured import by_destination, by_key, capture, close, normalised, take_texts
from cases import STAMPED
from celery import chain, chord, group, signals
from kombu import Exchange, Queue, serialization

serialization.register(
    "sealed",
    lambda value: bytes(byte ^ 0x5A for byte in repr(value).encode()),
    lambda data: bytes(byte ^ 0x5A for byte in data).decode(),
    content_type="application/x-sealed",
    content_encoding="binary",
)
LATER = datetime.now(UTC) + timedelta(hours=1)
# What the captured messages are compared with is published by Celery's own producers, some of which
# leave their sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture
def make_app(make_app):
    """Yield a function that makes apps without a pool, and close their connections afterwards."""
    made = []

    def make(**conf):
        made.append(make_app(**{"broker_pool_limit": 0, **conf}))
        return made[-1]

    yield make
    for app in made:
        close(app)
    gc.collect()


def compare(app, url, publish):
    """Publish without and with an outbox, and compare the texts; return how many there are.

    Celery makes the first two messages of a task for the outbox, and a stamp the third one.
    """
    publish()
    expected = by_destination(take_texts(url))
    for _ in range(3):
        drafts = capture(app, publish)
        assert take_texts(url) == [], "something was sent to the broker"
        found = by_key(drafts)
        assert [*found] == [*expected]
        for name, texts in expected.items():
            assert [*map(normalised, found[name])] == [*map(normalised, texts)]
    return len(drafts)


@pytest.mark.slow
@pytest.mark.parametrize("case", STAMPED)
def test_cases_of_the_stamper(make_app, make_desk, pgnotifier_redis_url, case):
    """Each message that the stamper is compared with is the same when it is captured."""
    make_fn, options, conf = STAMPED[case]
    app = make_app(**conf)
    desk = make_desk(app)
    binding = desk.subscribe(make_fn(app), **options)
    target = binding.target
    given = [target.given(one) for one in desk.deliveries(*((binding, text) for text in TEXTS))]
    app.set_current()
    app.finalize()

    def publish():
        for one in given:
            target.apply(one, None)

    assert compare(app, pgnotifier_redis_url, publish) == len(TEXTS)


OPTIONS = {
    "nothing": {},
    "arguments": {"args": (1, "é\0\ud800", None), "kwargs": {"a": [1.5]}},
    "countdown": {"countdown": 5},
    "eta": {"eta": LATER},
    "expires": {"expires": 60},
    "expires at": {"expires": LATER},
    "both": {"eta": LATER, "expires": LATER + timedelta(hours=1)},
    "headers": {"headers": {"trace": "abc", "when": LATER, "raw": b"\xff"}},
    "id": {"task_id": "of my own"},
    "priority": {"priority": 7},
    "priority 0": {"priority": 0},
    "priority beyond": {"priority": 99},
    "queue": {"queue": "low"},
    "a queue as an object": {"queue": Queue("mine", Exchange("mine"), "mine")},
    "routing key": {"exchange": "orders", "routing_key": "eu"},
    "shadow": {"shadow": "shown"},
    "no result": {"ignore_result": True},
    "reply to": {"reply_to": "somebody"},
    "limits": {"time_limit": 9, "soft_time_limit": 5},
    "transient": {"delivery_mode": 1},
    "no retry": {"retry": False},
    "a policy": {"retry": True, "retry_policy": {"max_retries": 1}},
    "link": {"link": "own"},
    "link error": {"link_error": "own"},
    "group": {"group_id": "g", "group_index": 2},
    "root": {"root_id": "r", "parent_id": "p"},
    "another property": {"message_id": "m", "user_id": "u"},
    "pickle": {"serializer": "pickle", "args": ({1, 2},)},
    "sealed": {"serializer": "sealed"},
    "zlib": {"compression": "zlib"},
    "bzip2": {"compression": "bzip2", "serializer": "pickle"},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(make_app, pgnotifier_redis_url, case):
    """Each option of `apply_async` arrives."""
    app = make_app()
    task = own(app)
    options = {
        name: task.si("linked") if value == "own" else value
        for name, value in OPTIONS[case].items()
    }
    if options.get("exchange"):
        with app.connection_for_write() as connection:
            Queue("eu orders", Exchange("orders"), "eu", channel=connection).declare()
    assert compare(app, pgnotifier_redis_url, lambda: task.apply_async(**options)) == 1


SETTINGS = {
    "an older protocol": {"task_protocol": 1},
    "no UTC": {"enable_utc": False, "timezone": "Asia/Tokyo"},
    "a time zone": {"timezone": "Asia/Tokyo"},
    "a priority of all": {"task_default_priority": 5},
    "pickle for all": {"task_serializer": "pickle"},
    "compression of all": {"task_compression": "gzip"},
    "transient": {"task_default_delivery_mode": 1},
    "a default exchange": {
        "task_default_exchange": "tasks",
        "task_default_exchange_type": "topic",
        "task_default_routing_key": "task.default",
    },
    "queues": {
        "task_queues": [
            Queue("high", Exchange("shop", type="topic"), "high.#"),
            Queue("low", Exchange("shop", type="topic"), "low.#"),
        ],
        "task_default_queue": "high",
        "task_default_exchange": "shop",
        "task_default_routing_key": "high.most",
    },
    "no missing queues": {
        "task_create_missing_queues": False,
        "task_queues": [Queue("celery")],
    },
    "ignored results": {"task_ignore_result": True},
    "no retry": {"task_publish_retry": False},
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(make_app, pgnotifier_redis_url, case):
    """Each setting of the app has the same effect."""
    app = make_app(**SETTINGS[case])
    task = own(app)
    with app.connection_for_write() as connection:
        for queue in app.amqp.queues.values():
            queue(connection).declare()

    def publish():
        task.apply_async((1,), countdown=9)
        task.delay(2)

    if case == "an older protocol":
        publish()
        expected = take_texts(pgnotifier_redis_url)
        drafts = capture(app, publish)
        assert [key for key, _ in drafts] == ["\x1fcelery\x1f0"] * 2
        assert [len(text) for _, text in drafts] == [*map(len, expected)]
    else:
        assert compare(app, pgnotifier_redis_url, publish) == 2


def stamped(signature):
    signature.stamp(tenant="acme")
    return signature


CANVASES = {
    "chain": (lambda t: chain(t.s(1), t.s(2), t.si(3)), 1),
    "pipe": (lambda t: t.s(1) | t.s(2), 1),
    "a chain with links": (lambda t: chain(t.s(1), t.s(2)).on_error(t.s()), 1),
    "group": (lambda t: group(t.s(1), t.s(2), t.s(3)), 3),
    "a group of chains": (lambda t: group(chain(t.s(1), t.s(2)), t.s(3)), 2),
    "a group of a generator": (lambda t: group(t.s(n) for n in range(4)), 4),
    "a group in a chain": (lambda t: chain(t.s(1), group(t.s(2), t.s(3)), t.s(4)), 1),
    "chord": (lambda t: chord([t.s(1), t.s(2)], t.s(3)), 2),
    "a chord of chains": (lambda t: chord([chain(t.s(1), t.s(2)), t.s(3)], t.s()), 2),
    "a chord in a chord": (
        lambda t: chord([chord([t.s(1), t.s(2)], t.s()), t.s(3)], t.s()),
        3,
    ),
    "a chord with an errback": (lambda t: chord([t.s(1), t.s(2)], t.s().on_error(t.s())), 2),
    "map": (lambda t: t.map([1, 2]), 1),
    "starmap": (lambda t: t.starmap([(1, 2), (3, 4)]), 1),
    "chunks": (lambda t: t.chunks([(n,) for n in range(7)], 3), 3),
    "links": (lambda t: t.s(1).on_error(t.s("failed")).set(link=[t.s("done"), t.s(2)]), 1),
    "stamps": (lambda t: stamped(group(t.s(1), chain(t.s(2), t.s(3)))), 2),
    "options": (lambda t: group(t.s(1), t.s(2)).set(queue="low", priority=6), 2),
    "several queues": (lambda t: group(t.s(1).set(queue="a"), t.s(2).set(queue="b")), 2),
    "nothing": (lambda _: group([]), 0),
}


@pytest.mark.parametrize("case", CANVASES)
def test_canvases(make_app, pgnotifier_redis_url, case):
    """Each task of a canvas that Celery would publish is captured, and none else."""
    app = make_app()
    task = own(app)
    make, count = CANVASES[case]
    app.set_current()
    assert compare(app, pgnotifier_redis_url, lambda: make(task).apply_async()) == count
    assert compare(app, pgnotifier_redis_url, lambda: make(task).apply_async(countdown=9)) == count


def test_no_result_backend(make_app, pgnotifier_redis_url):
    """An app needs no result backend for canvases that don't."""
    app = make_app(result_backend=None)
    task = own(app)
    app.set_current()
    make = lambda: group(chain(task.s(1), task.s(2)), task.s(3))()  # noqa: E731
    assert compare(app, pgnotifier_redis_url, make) == 2


def test_a_chord_has_its_size(make_app, pgnotifier_redis_url):
    """The result backend gets what it needs to complete a chord."""
    app = make_app()
    task = own(app)
    app.set_current()

    def keys():
        return sorted(
            (key[-2:], app.backend.client.get(key))
            for key in app.backend.client.keys("celery-taskset-meta-*")
        )

    chord([task.s(1), task.s(2)], task.s())()
    expected = keys()
    app.backend.client.flushdb()
    capture(app, lambda: chord([task.s(1), task.s(2)], task.s())())
    assert keys() == expected
    assert expected[0][1] == b"2"


def test_by_name(make_app, pgnotifier_redis_url):
    """`send_task` is captured as well."""
    app = make_app()
    publish = lambda: app.send_task("elsewhere.task", (1,), queue="low", countdown=3)  # noqa: E731
    assert compare(app, pgnotifier_redis_url, publish) == 1


def test_what_receivers_add(make_app, pgnotifier_redis_url):
    """Receivers of Celery's signals are called once per task, at enqueue time."""
    app = make_app()
    task = own(app)
    calls = []

    def before(sender, headers, properties, **_):
        calls.append(("before", sender))
        headers["tenant"] = "acme"
        properties["app_id"] = "shop"

    def after(sender, headers, **_):
        calls.append(("after", sender, headers["tenant"]))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    assert compare(app, pgnotifier_redis_url, lambda: task.delay(1)) == 1
    assert calls == [("before", "own"), ("after", "own", "acme")] * 4


def test_events(make_app):
    """An app that sends events has them captured, too, after their tasks."""
    app = make_app(task_send_sent_event=True)
    task = own(app)
    drafts = capture(app, lambda: task.delay(1))
    assert [key for key, _ in drafts] == ["\x1fcelery\x1f0", "celeryev\x1ftask.sent\x1f0"]
