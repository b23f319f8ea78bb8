"""From NOTIFY to a callback in a worker, with real processes: all that is promised."""

import pytest

from pgnotifier.payload import decode

pytestmark = pytest.mark.xdist_group("celery worker")  # all in one worker

SOURCE = """
app.conf.update(
    accept_content=["json", "pickle"],
    task_routes={"pgnotifier.routed": {"queue": os.environ["QUEUE"] + "-second"}},
    include=["included"],
)
app.autodiscover_tasks(["package"])
notifier = Notifier(os.environ["DSN"], dispatcher=CeleryDispatcher(app))
second = Notifier(
    os.environ["DSN"], dispatcher=CeleryDispatcher(app, "second."), decoder=lambda text: (text, nan)
)
nan = float("nan")

def odd(id, channel, payload, pid):
    write("odd", id, channel, payload, pid, current_task.name)

@app.task
def own(*args):
    write("own", *args)
    return len(args)

@shared_task
def after(*args):
    write("after", *args)

ids = ["text", 42, None, (2, "another"), frozenset({3, 1}), b"raw", (1, (2.5, True))]
for each in ids:
    notifier.subscribe(each, "odd", odd)
notifier.subscribe("pickled", "odd", odd, serializer="pickle")
notifier.subscribe((3, "own"), "odd", own)
notifier.subscribe("signature", "odd", own.s("mine"))
second.subscribe("text", "odd", odd)

@app.task
def part(*args):
    write("parts", *args)
    return len(args)

def one(*args):
    write("two channels", "one", *args[:3])

def two(*args):
    write("two channels", "two", *args[:3])

notifier.subscribe("both", "ch1", one)
notifier.subscribe("both", "ch2", two)

notifier.subscribe("chain", "canvas", part.s(1) | after.s(2))
notifier.subscribe("group", "canvas", group(part.s(3), part.si(4)))
notifier.subscribe("chord", "canvas", chord([part.s(5), part.s(6)], after.s(7)))

def where(*args):
    request = current_task.request
    delivered = request.delivery_info
    write("where", args[0], delivered["routing_key"], delivered["priority"], bool(request.eta))

notifier.subscribe("routed", "where", where)
notifier.subscribe("queued", "where", where, queue=os.environ["QUEUE"] + "-second", priority=6)
notifier.subscribe("later", "where", where, countdown=0.5)
notifier.subscribe("late", "where", where, countdown=0.3, expires=0.001)

def fail(*args):
    raise ValueError("the callback's own")

notifier.subscribe("fails", "fails", fail)
notifier.subscribe("fine", "fails", lambda *args: write("fine", *args))

@app.task
def kept(*args):
    write("ids", "task", current_task.request.id)

notifier.subscribe("id", "ids", lambda *args: write("ids", "callback", current_task.request.id))
notifier.subscribe("task", "ids", kept)
"""
INCLUDED = """
from shop import notifier, write

@notifier.on(["included"])
def callback(*args):
    write("included", *args[:3])
"""

DISCOVERED = """
from shop import notifier, write

@notifier.on("included", id="discovered")
def callback(*args):
    write("discovered", *args[:3])
"""

TEXTS = [
    '{"a": [1, 2.5, null, true, "\\u00fc"]}',
    '{1: "x", (1, 2): 3, None: {4}}',
    "(1,)",
    "{1}",
    "b'\\xff'",
    "1+2j",
    "...",
    str(-(10**300)),
    "[1e999, 12345678901234567.89, -0.0]",
    "[1.e999]",
    "'\\ud800'",
    '"\\ud83d"',
    '{"__type__": "x", "__value__": 1}',
    '[{"__type__": "datetime", "__value__": "2026-01-01"}]',
    '{"__pgnotifier_raw__": "1"}',
    "None",
    "",
    "hello world",
    "nan",
    '"' + "é" * 3900 + '"',
]
IDS = ["text", 42, None, (2, "another"), frozenset({3, 1}), b"raw", (1, (2.5, True))]


@pytest.fixture(scope="module")
def shop(open_module_shop):
    """Return a shop with a worker and a listener, which all tests of this module use."""
    shop = open_module_shop(SOURCE)
    (shop.directory / "included.py").write_text(INCLUDED)
    (shop.directory / "package").mkdir()
    (shop.directory / "package" / "tasks.py").write_text(DISCOVERED)
    shop.worker("-P", "solo", "-Q", f"{shop.queue},{shop.queue}-second")
    shop.listener(notifiers=2)
    return shop


def test_callbacks_get_what_they_would_have_got_inline(shop):
    """A worker's callback gets ids and payloads with the same values and types as an inline one."""
    pid = shop.notify(*(("odd", text) for text in TEXTS))
    written = shop.wait_written("odd", len(TEXTS) * (len(IDS) + 2))
    names = ["text", "42", "None", "2.another", "{1,3}", "b'raw'", "1.2.5.True", "pickled"]
    for key, name in zip([*IDS, "pickled"], names, strict=True):
        came = [line for line in written if line[4] == f"pgnotifier.{name}"]
        assert list(map(ascii, came)) == [
            ascii((key, "odd", decode(text), pid, f"pgnotifier.{name}")) for text in TEXTS
        ]
    # Those of the second notifier were made by its own decoder.
    came = [line for line in written if line[4] == "second.text"]
    assert [(payload[0], str(payload[1])) for _, _, payload, *_ in came] == [
        (text, "nan") for text in TEXTS
    ]
    written = shop.wait_written("own", len(TEXTS) * 2)
    own = [line for line in written if line[0] == (3, "own")]
    assert list(map(ascii, own)) == [
        ascii(((3, "own"), "odd", decode(text), pid)) for text in TEXTS
    ]
    signed = [line for line in written if line[0] == "signature"]
    assert list(map(ascii, signed)) == [
        ascii(("signature", "odd", decode(text), pid, "mine")) for text in TEXTS
    ]


def test_one_id_has_a_callback_for_each_channel(shop):
    """An id with a callback for each of two channels has one task, which calls the right one."""
    shop.notify(("ch1", "1"), ("ch2", "(2,)"))
    assert shop.wait_written("two channels", 2) == [
        ("one", "both", "ch1", 1),
        ("two", "both", "ch2", (2,)),
    ]


def test_modules_are_imported_as_a_worker_does(shop):
    """The listener imports the modules that the app includes, and those that it discovers."""
    shop.notify(("included", "3"))
    assert shop.wait_written("included", 1) == [("included.callback", "included", 3)]
    assert shop.wait_written("discovered", 1) == [("discovered", "included", 3)]


def test_canvases_run(shop):
    """Each task of a canvas gets the notification or its parent's result, as in Celery."""
    pid = shop.notify(("canvas", "{1: 2}"))
    head = ("canvas", {1: 2}, pid)
    assert sorted(shop.wait_written("parts", 5), key=str) == sorted(
        [("chain", *head, 1), ("group", *head, 3), (4,), ("chord", *head, 5), ("chord", *head, 6)],
        key=str,
    )
    assert sorted(shop.wait_written("after", 2), key=str) == [(5, 2), ([5, 5], 7)]


def test_options_and_routes_are_honoured(shop):
    """Routes, queue, priority and countdown are used, and a task that has expired doesn't run."""
    shop.notify(("where", "1"))
    written = {line[0]: line[1:] for line in shop.wait_written("where", 3)}
    assert written == {
        "routed": (f"{shop.queue}-second", 0, False),
        "queued": (f"{shop.queue}-second", 6, False),
        "later": (shop.queue, 0, True),
    }


def test_a_callback_that_fails_stops_nothing(shop):
    """A callback that raises is a failed task, logged by Celery; other callbacks still run."""
    pid = shop.notify(("fails", "1"))
    assert shop.wait_written("fine", 1) == [("fine", "fails", 1, pid)]
    worker = shop.running[0]
    worker.wait_for("pgnotifier.fails")
    worker.wait_for("ValueError: the callback's own")


def test_a_worker_with_other_code_says_so(shop):
    """A task for a channel without a callback in the worker fails, and names the known channels."""
    sending = shop.celery("call", "pgnotifier.both", "--args", '["both", "ch9", 1, 2]')
    assert sending.wait() == 0
    shop.running[0].wait_for("has no callback on channel 'ch9' here (channels: 'ch1', 'ch2')")


def test_the_tasks_are_registered(shop):
    """`celery inspect registered` lists the tasks of callbacks."""
    inspected = shop.celery("inspect", "registered", "--timeout", "2")
    assert inspected.wait() == 0
    for name in ("pgnotifier.text", "pgnotifier.{1,3}", "pgnotifier.2.another", "second.text"):
        assert f"* {name}" in inspected.log


def test_no_result_is_stored_of_callbacks(shop, eventually):
    """Tasks made of callbacks store no result; the app's own tasks store theirs."""
    shop.notify(("ids", "1"))
    ids = dict(shop.wait_written("ids", 2))
    eventually(lambda: shop.redis.exists(f"celery-task-meta-{ids['task']}"))
    assert not shop.redis.exists(f"celery-task-meta-{ids['callback']}")


def test_only_the_listener_has_a_session(shop):
    """Workers that import the module never connect to PostgreSQL."""
    assert shop.sessions() == 2  # one for each of the listener's two notifiers
