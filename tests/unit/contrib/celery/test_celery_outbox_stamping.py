"""Messages that are made from a template equal Celery's, and nothing else is made from one.

What they equal in detail, the conformance tests say, which publish each case often enough.
"""

import datetime as dt
import json
import os
import threading
import uuid
from functools import partial
from unittest.mock import call, patch

import pytest
from brokered import own
from captured import capture, normalised
from celery import Celery, Task, chain, signals
from kombu.exceptions import EncodeError

from pgnotifier.contrib.celery.outbox import CeleryOutbox
from pgnotifier.contrib.celery.outbox_capture import Capture

ARGUMENTS = [
    (),
    (1,),
    ("é\u2028\"\\'", None, True, 1.5),
    ({"order": 1234, "item": "tea", "amount": [3, {"a": ()}]},),
    ("x" * 3000,),
    (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), 7 * [()], b"raw", {1: 2}),
    ([[[[[[1]]]]]],),
]


@pytest.fixture
def app():
    """Return an app with a broker and a result backend that are down."""
    url = "redis://127.0.0.1:1/0"
    return Celery("shop", broker=url, backend=url, set_as_current=False)


@pytest.fixture
def task(app):
    return own(app)


@pytest.fixture
def stamper(app):
    return Capture.of(app).stamper


def made_by_celery(app, publish):
    """Return what Celery makes: a receiver of its signals may change each message."""

    def receive(**_):
        """Do nothing."""

    signals.before_task_publish.connect(receive)
    try:
        return capture(app, publish)
    finally:
        signals.before_task_publish.disconnect(receive)


def compare(app, publish):
    """Compare what is published with what Celery makes, twice: the stamp has learned by then."""
    expected = made_by_celery(app, publish)
    for _ in range(2):
        capture(app, publish)
    found = capture(app, publish)
    assert [key for key, _ in found] == [key for key, _ in expected]
    assert [normalised(text) for _, text in found] == [normalised(text) for _, text in expected]


@pytest.mark.parametrize("kwargs", [None, {}, {"a": 1, "b": "\0é"}, {"c": ["x" * 2000]}])
@pytest.mark.parametrize("args", [None, *ARGUMENTS])
def test_arguments(app, task, stamper, args, kwargs):
    """Any arguments are written as Celery writes them, in the body and in the headers."""
    compare(app, lambda: task.apply_async(args, kwargs))
    assert stamper.count == 1


@pytest.mark.parametrize("args", [[1, "a"], (1, "a"), [], ()])
def test_lists(app, task, stamper, args):
    """A list of arguments is shown as one."""
    compare(app, lambda: task.apply_async(args))
    assert stamper.count == 1


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_settings(app, task, stamper, serializer):
    """The app's settings have their effect."""
    app.conf.update(
        task_serializer=serializer,
        task_routes={"own": {"queue": "low", "priority": 3}},
        task_ignore_result=True,
        task_time_limit=5,
    )
    app.amqp.argsrepr_maxsize = 30
    compare(app, lambda: task.apply_async(("x" * 100, {"a": 1}), {"b": "y" * 100}))
    assert stamper.count == 1


OPTIONS = [
    {"queue": "low"},
    {"exchange": "orders", "routing_key": "eu"},
    {"priority": 7, "expires": None, "countdown": 0},
    {"serializer": "pickle"},
    {"ignore_result": True},
    {"shadow": "shown"},
    {"time_limit": 9, "soft_time_limit": 5},
    {"delivery_mode": 1},
    {"user_id": "u", "message_id": "m"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(app, task, stamper, options):
    """Messages with the same options have a stamp of their own."""
    compare(app, lambda: task.apply_async((1,), **options))
    assert stamper.count == 1
    compare(app, lambda: task.delay(1))
    assert stamper.count == 2


def test_ids(app, task, stamper):
    """A UUID of the caller's own is used."""
    given = "0b7d2a44-5f0f-4e0c-9a53-0a4b0c1d2e3f"
    compare(app, lambda: task.apply_async((1,), task_id=given))
    ((_, text),) = capture(app, lambda: task.apply_async((1,), task_id=given))
    assert (json.loads(text)["headers"]["root_id"], stamper.count) == (given, 2)


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False)])
def test_equal_options(app, task, one, other):
    """Options that are equal, but not the same, aren't mistaken for each other."""
    compare(app, lambda: task.apply_async((1,), app_id=one))
    compare(app, lambda: task.apply_async((1,), app_id=other))


LEFT = {
    "countdown": {"countdown": 5},
    "expires": {"expires": 60},
    "headers": {"headers": {"trace": "abc"}},
    "link": {"link": "own"},
    "group": {"group_id": "g"},
    "root": {"root_id": "r", "parent_id": "p"},
    "an id": {"task_id": "of my own"},
    "compression": {"compression": "zlib"},
    "a repr": {"argsrepr": "secret"},
    "another queue": {"reply_to": "somebody"},
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_to_celery(app, task, stamper, case):
    """Options that differ from message to message, or are rare, are Celery's."""
    options = {key: task.si() if one == "own" else one for key, one in LEFT[case].items()}
    for _ in range(2):
        capture(app, lambda: task.delay(1))
    compare(app, lambda: task.apply_async((1,), **options))
    assert stamper.count == 0


FALSY = [
    {"expires": 0},
    {"expires": 0.0},
    {"expiration": 0},
    {"retries": None},
    {"group_index": 0},
    {"argsrepr": ""},
    {"kwargsrepr": ""},
    {"link": []},
    {"chain": []},
    {"stamped_headers": []},
    {"headers": {}},
    {"countdown": 0},
]


@pytest.mark.parametrize("options", FALSY, ids=str)
def test_falsy_options(app, task, options):
    """An option that is 0, None or empty isn't taken for one that isn't given."""
    for _ in range(3):
        capture(app, lambda: task.delay(1))
    compare(app, lambda: task.apply_async((1,), **options))
    compare(app, lambda: task.delay(1))


def test_no_expiry(app):
    """By name, `expires=None` overrides what a task declares."""
    own(app, expires=60)
    compare(app, lambda: app.send_task("own", (1,), expires=None))
    compare(app, lambda: app.send_task("own", (1,)))


@pytest.mark.parametrize("name", ["before_task_publish", "after_task_publish"])
def test_receivers(app, task, stamper, name):
    """A receiver of a signal sees each message from then on."""
    calls = []

    def receive(sender, **_):
        calls.append(sender)

    signal = getattr(signals, name)
    # This forgets receivers that have died. With earlier versions of Celery, an app that has sent a
    # message before that wouldn't see new ones, as it keeps the list that there was.
    signal.connect(receive)
    signal.disconnect(receive)
    for _ in range(3):
        capture(app, lambda: task.delay(1))
    assert stamper.count == 1
    signal.connect(receive)
    capture(app, lambda: task.delay(1))
    assert (calls, stamper.count) == (["own"], 1)
    signal.disconnect(receive)
    capture(app, lambda: task.delay(1))
    assert (calls, stamper.count) == (["own"], 2)


def test_obstacles(app, task, stamper):
    """Routers that may look at the arguments are called for each message."""
    routed = []

    def route(name, args, *_, **__):
        routed.append(args)
        return {"queue": "even" if args[0] % 2 == 0 else "odd"}

    app.conf.task_routes = [route]
    drafts = capture(app, lambda: [task.delay(number) for number in range(4)])
    assert [key for key, _ in drafts] == ["\x1feven\x1f0", "\x1fodd\x1f0"] * 2
    assert stamper.count == 0


def test_events(app, task, stamper):
    """An app that sends events is left to Celery."""
    app.conf.task_send_sent_event = True
    assert len(capture(app, lambda: [task.delay(1) for _ in range(3)])) == 6
    assert stamper.count == 0


def test_a_task_that_runs(app, task, stamper):
    """What a task publishes holds its ids."""
    app.finalize()
    for _ in range(3):
        capture(app, lambda: task.delay(1))
    from celery._state import _task_stack

    task.push_request(id="mine", called_directly=False, root_id="root", args=[], kwargs={})
    app.set_current()
    _task_stack.push(task._get_current_object())
    try:
        ((_, text),) = capture(app, lambda: task.delay(1))
    finally:
        _task_stack.pop()
        task.pop_request()
    headers = json.loads(text)["headers"]
    assert (headers["root_id"], headers["parent_id"], stamper.count) == ("root", "mine", 1)


def test_outside_of_blocks(app, task, stamper):
    """Without an outbox, everything is Celery's."""
    app.conf.broker_url = "memory://"
    for _ in range(3):
        task.apply_async((1,), ignore_result=True)
    assert stamper.count == 0


GIVEN = ["own", (1,), {"a": 1}, None, None, "an id"]  # no countdown, and no eta


def test_positions(app, task, stamper):
    """`send_task` takes by position whatever Celery's takes."""
    compare(app, lambda: app.send_task(*GIVEN[:3]))
    compare(app, lambda: app.send_task(kwargs={"a": 1}, args=(1,), name="own"))
    assert stamper.count == 4
    for count in 4, 5, 6:
        compare(app, lambda count=count: app.send_task(*GIVEN[:count]))
    assert stamper.count == 4


def test_positions_outside_of_blocks(app, task, stamper):
    """It does so without an outbox, too."""
    app.conf.broker_url = "memory://"
    result = app.send_task(*GIVEN, ignore_result=True)
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("celery")
        message = queue.get(block=False)
        queue.close()
    assert (result.id, message.headers["id"]) == ("an id", "an id")
    assert message.payload[:2] == [[1], {"a": 1}]
    assert stamper.count == 0


def test_no_name(app, stamper):
    """Without a name, the error is Celery's, in a block and outside."""
    for publish in app.send_task, partial(capture, app, app.send_task):
        with pytest.raises(TypeError, match=r"Celery\.send_task\(\) missing"):
            publish()


@pytest.mark.parametrize("autospec", [None, True])
def test_mocks(app, stamper, autospec):
    """A mock of `Celery.send_task` gets what its caller gave, as without an outbox."""
    calls = [call("x", args=[1]), call("x", [1]), call("x", (), None, 10), call(name="x")]
    if autospec:
        calls = [call(app, *one.args, **one.kwargs) for one in calls]
    with patch("celery.app.base.Celery.send_task", autospec=autospec) as mock:

        def publish():
            app.send_task("x", args=[1])
            app.send_task("x", [1])
            app.send_task("x", (), None, 10)
            app.send_task(name="x")

        publish()
        assert mock.call_args_list == calls
        assert capture(app, publish) == []
        assert mock.call_args_list == calls * 2


def test_tasks_that_opt_out(app, stamper):
    """A sink that doesn't take a task has it published at once."""
    app.conf.broker_url = "memory://"
    task = own(app, ignore_result=True)

    class Sink:
        """Takes nothing."""

        def takes(self, task):
            return False

    Capture.of(app).finders.append(Sink)
    results = [task.delay(1) for _ in range(3)]
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue("celery")
        assert [queue.get(block=False).headers["id"] for _ in results] == [x.id for x in results]
        queue.close()
    assert stamper.count == 0


def test_threads_and_forks(app, task, stamper):
    """Threads have their queue for answers, and processes their name, in the messages."""
    found = []

    def publish():
        for _ in range(3):
            drafts = capture(app, lambda: task.delay(1))
        found.append(json.loads(drafts[0][1]))

    publish()
    thread = threading.Thread(target=publish)
    thread.start()
    thread.join()
    assert stamper.count == 2
    mine, theirs = (one["properties"]["reply_to"] for one in found)
    assert mine != theirs
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        ((_, text),) = capture(app, lambda: task.delay(1))
        os.write(write, text.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        message = json.loads(pipe.read())
    assert f"gen{child}@" in message["headers"]["origin"]
    assert message["headers"]["id"] not in {one["headers"]["id"] for one in found}


def test_results(app, task, stamper):
    """The results are those that Celery returns, with the ids of the messages."""
    found = []
    drafts = capture(app, lambda: found.extend(task.delay(1) for _ in range(4)))
    assert [json.loads(text)["headers"]["id"] for _, text in drafts] == [one.id for one in found]
    kinds = {(type(one), one.backend, one.ignored) for one in found}
    assert kinds == {(app.AsyncResult, app.backend, False)}
    assert stamper.count == 2


def test_wrong_arguments(app, task, stamper):
    """Arguments that don't fit the task are refused, with a stamp as without."""

    @app.task(name="strict", shared=False)
    def strict(one, *, two=2):
        """Do nothing."""

    for _ in range(3):
        capture(app, lambda: strict.delay(1))
    before = stamper.count
    outbox = Capture.of(app)
    with outbox.record(), pytest.raises(TypeError):
        strict.delay(1, 2)
    with outbox.record(), pytest.raises(TypeError):
        list(stamper.apply_all([strict.s(1), strict.s(1), strict.s(1), strict.s(1, three=3)]))
    assert stamper.count == before + 3


class Nameless:
    """Has no repr, and no JSON."""

    def __repr__(self):
        raise RuntimeError("no repr")


CIRCLE = []
CIRCLE.append(CIRCLE)
UNSERIALIZABLE = {
    "a class": (Nameless(), EncodeError),
    "a circle": (CIRCLE, EncodeError),
    "a large number": (10**5000, ValueError),  # Celery shows it before it serializes it
}


@pytest.mark.parametrize("case", UNSERIALIZABLE)
def test_unserializable_arguments(app, task, stamper, case):
    """Arguments that can't be serialized raise the same with a stamp as without."""
    value, error = UNSERIALIZABLE[case]
    with pytest.raises(error) as expected:
        made_by_celery(app, lambda: task.delay(value))
    for _ in range(3):
        capture(app, lambda: task.delay(1))
    many = [task.s(1), task.s(value)]
    for publish in (partial(task.delay, value), lambda: list(stamper.apply_all(many))):
        with pytest.raises(error) as found:
            capture(app, publish)
        assert (found.type, str(found.value)) == (expected.type, str(expected.value))
    before = stamper.count
    capture(app, lambda: task.delay(1))
    assert stamper.count == before + 1


def signatures(task, options):
    """Return signatures with equal options."""
    return [task.signature((number,), {"a": number}, **options) for number in range(5)]


@pytest.mark.parametrize("options", [{}, {"queue": "low", "priority": 2}, {"immutable": True}])
def test_many(app, task, stamper, options):
    """Many signatures are published as one after the other."""
    made = signatures(task, options)
    expected = made_by_celery(app, lambda: [one.apply_async() for one in made])
    results = []
    found = capture(app, lambda: results.extend(stamper.apply_all(made)))
    assert [key for key, _ in found] == [key for key, _ in expected]
    assert [normalised(text) for _, text in found] == [normalised(text) for _, text in expected]
    assert [json.loads(text)["headers"]["id"] for _, text in found] == [one.id for one in results]
    assert {(type(one), one.backend) for one in results} == {(app.AsyncResult, app.backend)}
    assert stamper.count == 3


class Tenant(Task):
    """Adds an argument."""

    def apply_async(self, args=None, kwargs=None, **options):
        """Publish with the argument."""
        return super().apply_async(args, {**(kwargs or {}), "tenant": args[0] + 1}, **options)


class Chosen(Task):
    """Derives the id from the arguments."""

    def apply_async(self, args=None, kwargs=None, **options):
        """Publish with an id of its own."""
        task_id = str(uuid.uuid5(uuid.NAMESPACE_OID, repr(args)))
        return super().apply_async(args, kwargs, **options, task_id=task_id)


class Sharded(Task):
    """Derives the queue from the arguments."""

    def apply_async(self, args=None, kwargs=None, **options):
        """Publish to one of two queues."""
        return super().apply_async(args, kwargs, **options, queue=f"shard{args[0] % 2}")


class Shadowed(Task):
    """Derives the name that is shown from the arguments."""

    def shadow_name(self, args, kwargs, options):
        """Return a name with the argument."""
        return f"{self.name} {args[0]}"


def add_tenant(app):
    """Return a task with an `apply_async` that is replaced on the task itself."""
    task = own(app)
    original = task.apply_async
    task.apply_async = lambda args, kwargs, **options: original(args, {"a": args[0]}, **options)
    return task


def take_model(app):
    """Return a task that takes a model, which Celery turns into a dict."""
    pydantic = pytest.importorskip("pydantic")
    if not hasattr(Task, "_dump_pydantic_arguments"):
        pytest.skip("this Celery takes models from nobody but workers")

    class Order(pydantic.BaseModel):
        """Has a number."""

        number: int

    def order(number: Order):
        """Do nothing."""

    task = app.task(name="order", pydantic=True)(order)
    make = task.signature
    task.signature = lambda args, _, **options: make((Order(number=args[0]),), **options)
    return task


OVERRIDING = {
    "arguments": lambda app: own(app, base=Tenant),
    "ids": lambda app: own(app, base=Chosen),
    "queues": lambda app: own(app, base=Sharded),
    "shadows": lambda app: own(app, base=Shadowed),
    "a shadow_name": lambda app: own(app, shadow_name=Shadowed.shadow_name),
    "a patch": add_tenant,
    "models": take_model,
}


@pytest.mark.parametrize("options", [{}, {"priority": 2}])
@pytest.mark.parametrize("case", OVERRIDING)
def test_many_of_tasks_that_override(app, case, options):
    """What a task overrides is called for each of many signatures."""
    made = signatures(OVERRIDING[case](app), options)
    expected = made_by_celery(app, lambda: [one.apply_async() for one in made])
    found = capture(app, lambda: list(Capture.of(app).stamper.apply_all(made)))
    assert [key for key, _ in found] == [key for key, _ in expected]
    assert [normalised(text) for _, text in found] == [normalised(text) for _, text in expected]
    ids, own_ids = (
        [json.loads(text)["headers"]["id"] for _, text in texts] for texts in (found, expected)
    )
    assert len(set(ids)) == len(made)
    assert (ids == own_ids) is (case == "ids")


def test_many_kinds(app, task, stamper):
    """Canvases, frozen signatures and other tasks among them are published as they are."""

    @app.task(name="other", shared=False)
    def other(*args):
        """Do nothing."""

    frozen = task.s(8)
    frozen.freeze()
    app.set_current()
    made = [task.s(0), chain(task.s(1), other.s(2)), other.s(3), frozen, task.s(4), task]
    made += [task.s(5).set(queue="low"), task.s(6), task.s(7), app.signature("elsewhere", (9,))]
    found = capture(app, lambda: list(stamper.apply_all(made)))
    expected = made_by_celery(app, lambda: [one.apply_async() for one in made])
    assert [key for key, _ in found] == [key for key, _ in expected]
    assert [normalised(text) for _, text in found] == [normalised(text) for _, text in expected]
    assert json.loads(found[3][1])["headers"]["id"] == frozen.id


def test_a_generator_that_publishes(app, task, stamper):
    """What the iterable of signatures publishes itself is in order, too."""
    outbox = CeleryOutbox(app)
    assert outbox.app is app

    def generate():
        for number in range(4):
            task.delay(number)
            yield task.s(number)

    drafts = capture(app, partial(list, stamper.apply_all(generate())))
    shown = [json.loads(text)["headers"]["argsrepr"] for _, text in drafts]
    assert shown == [f"({number},)" for number in range(4) for _ in range(2)]
