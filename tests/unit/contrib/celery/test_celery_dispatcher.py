"""CeleryDispatcher: what it refuses, what it publishes, what it sets aside."""

import functools
import re
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from celery import Celery, Task, chain, chord, group, shared_task, signals
from kombu.exceptions import EncodeError, OperationalError

from pgnotifier import (
    ArgumentTypeError,
    Batch,
    ConfigurationError,
    Delivery,
    DispatcherMismatchError,
    InlineDispatcher,
    Notification,
    Notifier,
    Subscription,
    TaskNameError,
    UnknownOptionError,
)
from pgnotifier.contrib.celery import CallbackNotFoundError, CeleryDispatcher, notifiers_of
from pgnotifier.contrib.celery.broker import Broker
from pgnotifier.dispatchers.carrying import RAW

DSN = "postgresql://nobody:sesame@localhost:1/nothing"


# --- tasks made of callbacks --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "name"),
    [("resize", "pgnotifier.resize"), ((2, "b"), "pgnotifier.2.b"), (None, "pgnotifier.None")],
)
@pytest.mark.parametrize("finalized", [True, False])
def test_a_callable_becomes_a_task(app, make_desk, record, id, name, finalized):
    """A callable is registered as a task under its id's name, and called as it would be inline."""
    if finalized:
        app.finalize()
    desk = make_desk(app)
    binding = desk.subscribe(record, id=id)
    assert app.finalized is finalized  # subscribing must not read the configuration
    assert name in app.tasks
    assert not desk.deliver(binding, '{"a": 1}', "{1: (2, b'x')}")
    desk.run()
    assert record.calls == [(id, "ch", {"a": 1}, 7), (id, "ch", {1: (2, b"x")}, 7)]
    assert not desk.reported


def test_one_task_serves_all_channels_of_an_id(desk, make_recorder):
    """Each channel has its own callback; if a channel has none, the error says what to do."""
    first, second = make_recorder(), make_recorder()
    one = desk.subscribe(first, channel="one")
    two = desk.subscribe(second, channel="two")
    desk.dispatch((one, "1"), (two, "2"))
    desk.run()
    assert (first.payloads, second.payloads) == ([1], [2])
    assert [name for name in desk.app.tasks if name.startswith("pgn")] == ["pgnotifier.a"]
    with pytest.raises(CallbackNotFoundError, match=r"'a'.*'three'.*'one', 'two'.*deploy") as error:
        desk.app.tasks["pgnotifier.a"]("a", "three", 3, 7)
    assert isinstance(error.value, LookupError)


def test_subscribing_again_replaces_the_callback(desk, make_recorder):
    """The same id on the same channel has one callback: the latest."""
    old, new = make_recorder(), make_recorder()
    desk.subscribe(old)
    desk.deliver(desk.subscribe(new), "1")
    desk.run()
    assert (old.payloads, new.payloads) == ([], [1])


def test_unbinding_forgets_the_task_with_its_last_channel(desk):
    """The task is removed with its last channel, and then another id may use its name."""
    one = desk.subscribe(print, id="1", channel="one").subscription
    two = desk.subscribe(print, id="1", channel="two").subscription
    desk.app.finalize()
    desk.dispatcher.unbind(one)
    assert "pgnotifier.1" in desk.app.tasks
    with pytest.raises(TaskNameError):
        desk.subscribe(print, id=1)
    desk.dispatcher.unbind(two)
    assert "pgnotifier.1" not in desk.app.tasks
    desk.subscribe(print, id=1)
    assert "pgnotifier.1" in desk.app.tasks


@pytest.mark.parametrize(
    ("one", "other"), [("1", 1), (("a", "b"), "a.b"), (("a", ("b", "c")), ("a", "b", "c"))]
)
def test_two_ids_cannot_share_a_name(desk, one, other):
    """If two ids have the same task name, the second is refused, and the error names both."""
    desk.subscribe(print, id=one)
    with pytest.raises(TaskNameError) as caught:
        desk.subscribe(print, id=other, channel="other")
    assert repr(one) in str(caught.value)
    assert repr(other) in str(caught.value)
    desk.app.finalize()
    assert sum(name.startswith("pgn") for name in desk.app.tasks) == 1


@pytest.mark.parametrize("finalized", [True, False])
def test_the_name_of_another_task_is_refused(app, make_desk, finalized):
    """The name of another task is refused, whether that task exists or is still to be made."""

    @app.task(name="pgnotifier.a")
    def foreign():
        pass

    if finalized:
        app.finalize()
    with pytest.raises(TaskNameError, match="another task of that name"):
        make_desk(app).subscribe(print)
    assert app.finalized is finalized
    assert app.tasks["pgnotifier.a"].run is foreign.run


def test_a_task_by_its_functions_name_is_another_task(app, make_desk):
    """The name that Celery makes from another task's module and function is refused, too."""

    @app.task
    def foreign():
        pass

    with pytest.raises(TaskNameError):
        make_desk(app, task_prefix=f"{__name__}.").subscribe(print, id="foreign")


def test_a_name_taken_while_finalizing_is_an_error_for_each_delivery(app, make_desk, caplog):
    """If another task takes the name while the app is finalized, each delivery reports it."""
    desk = make_desk(app)
    binding = desk.subscribe(print)

    @app.task(name="pgnotifier.a")
    def foreign():
        pass

    desk.deliver(binding, "1")
    assert [type(exc) for exc in desk.reported] == [TaskNameError]
    assert "another task of that name" in caplog.text
    assert app.tasks["pgnotifier.a"].run is foreign.run


def test_notifiers_of_one_app_share_its_names(app, make_desk):
    """Two notifiers of one app need different prefixes to subscribe the same id."""
    make_desk(app).subscribe(print)
    with pytest.raises(TaskNameError, match="two notifiers"):
        make_desk(app).subscribe(print)
    make_desk(app, task_prefix="other.").subscribe(print)
    assert {"pgnotifier.a", "other.a"} <= set(app.tasks)


def test_apps_do_not_mix(make_desk):
    """Each app has its own tasks, even if a factory makes several apps in one process."""
    apps = [Celery("x", broker="memory://", set_as_current=False) for _ in range(2)]
    for app in apps:
        make_desk(app).subscribe(print)
    other = Celery("y", set_as_current=False)
    assert "pgnotifier.a" not in other.tasks
    assert all("pgnotifier.a" in app.tasks for app in apps)


def test_a_task_class_of_the_apps_own_is_used(record, make_desk):
    """A callback's task is an instance of the app's own Task class, and runs as that defines."""
    entered = []

    class InContext(Task):
        abstract = True

        def __call__(self, *args, **kwargs):
            entered.append(self.name)
            return self.run(*args, **kwargs)

    app = Celery("x", broker="memory://", task_cls=InContext, set_as_current=False)
    desk = make_desk(app)
    desk.deliver(desk.subscribe(record), "(1,)")
    desk.run()
    assert (entered, record.payloads) == (["pgnotifier.a"], [(1,)])


def test_settings_made_after_subscribing_hold(desk, record):
    """Settings that are made after subscribing apply, as they do to any other task."""
    binding = desk.subscribe(record)
    desk.app.conf.task_annotations = {"pgnotifier.a": {"rate_limit": "5/m"}}
    desk.app.conf.task_serializer = "msgspec"
    desk.deliver(binding, str(10**30))
    (message,) = desk.messages()
    assert message.content_type == "application/x-msgspec"
    assert desk.app.tasks["pgnotifier.a"].rate_limit == "5/m"


@pytest.mark.parametrize("serializer", ["json", "pickle", "msgspec"])
def test_the_serializer_of_a_subscription_carries_every_payload(desk, record, serializer):
    """Every payload reaches the callback unchanged, whatever types the serializer supports."""
    odd = '{"__type__": "x", "__value__": 1}'
    raws = ["(1,)", str(10**30), '"\\ud800"', odd, "1.e999", "1.00000000000000001", "..."]
    desk.deliver(desk.subscribe(record, serializer=serializer), *raws)
    desk.run()
    assert [repr(payload) for payload in record.payloads] == [
        repr(value)
        for value in [
            *((1,), 10**30, "\ud800", {"__type__": "x", "__value__": 1}, float("inf")),
            *(Decimal("1.00000000000000001"), ...),
        ]
    ]
    assert not desk.reported


def test_an_unknown_compression_of_the_app(make_app, make_desk, pgnotifier_redis_url, record):
    """If the app names a compression that doesn't exist, each task is reported, and none waits."""
    app = make_app(broker=pgnotifier_redis_url)
    app.conf.task_compression = "nonsense"
    desk = make_desk(app)
    desk.deliver(desk.subscribe(record), "1", "2")
    assert ["nonsense" in str(error) for error in desk.reported] == [True, True]


def test_the_notifiers_decoder_is_the_workers(app, make_desk, record):
    """With a custom decoder, the raw payload is sent, and the worker decodes it again."""
    desk = make_desk(app)
    notifier = Notifier(DSN, dispatcher=desk.dispatcher, decoder=lambda text: range(int(text)))
    binding = desk.subscribe(record)
    desk.deliver(binding, "{5}")
    (message,) = desk.messages()
    assert message.payload[0][2] == {RAW: '"{5}"'}
    app.tasks["pgnotifier.a"]("a", "ch", {RAW: '"3"'}, 7)
    assert record.payloads == [notifier.decoder("3")] == [range(3)]


# --- what is refused ----------------------------------------------------------------------------


async def coroutine(*args):
    pass


def nothing(*_):
    pass


def one_argument(one):
    pass


class Awaited:
    """An object with a `__call__` that must be awaited."""

    async def __call__(self, *args):
        pass


class ATask(Task):
    """A task that is not registered yet."""

    name = "a.task"


def generator(*args):
    yield


@pytest.mark.parametrize(
    ("fn", "hint"),
    [
        (coroutine, "coroutine"),
        (Awaited(), "asyncio.run"),
        (functools.partial(coroutine), "coroutine"),
        (generator, "generator"),
        (ATask, "register_task"),
    ],
)
def test_what_no_worker_can_call_is_refused(desk, fn, hint):
    """A callable that a worker can't call is refused, and the error shows a way out."""
    with pytest.raises(DispatcherMismatchError, match=hint):
        desk.subscribe(fn)


def test_a_group_takes_no_link(desk):
    """A link on a group, which Celery would refuse for each notification, is refused at once."""
    link = desk.app.signature("x")
    with pytest.raises(UnknownOptionError, match="chord"):
        desk.subscribe(group(link, link), link=link)


def test_inline_refuses_tasks(app):
    """An in-process dispatcher refuses tasks, because they would run in the listener."""
    notifier = Notifier(DSN, autorun=False)
    task = app.task(nothing, name="x")
    for fn in (task, task.s()):
        with pytest.raises(DispatcherMismatchError, match="CeleryDispatcher"):
            notifier.subscribe("a", "ch", fn, dispatcher=InlineDispatcher())


@pytest.mark.parametrize("app", ["shop", None, Celery])
def test_the_app_must_be_an_app(app):
    """The name of an app, None and the class are refused."""
    with pytest.raises(ArgumentTypeError, match=r"Celery\('shop'\)"):
        CeleryDispatcher(app)


def test_the_prefix_must_be_text(app):
    """A prefix of another type is refused."""
    with pytest.raises(ArgumentTypeError, match="task_prefix"):
        CeleryDispatcher(app, task_prefix=None)


# --- the user's own tasks -----------------------------------------------------------------------


@pytest.fixture
def calls():
    """Return what the tasks were called with."""
    return []


@pytest.fixture
def task(app, calls):
    """Return a task as the decorator returns it: the app hasn't made it yet."""

    @app.task(name="audit")
    def audit(*args, **kwargs):
        calls.append((*args, *kwargs.items()))

    return audit


def test_a_task_is_enqueued_as_it_is(desk, task, calls):
    """A user's own task is enqueued under its own name, with four arguments of the same types."""
    binding = desk.subscribe(task, id=(1, frozenset({2})), queue=None)
    assert not desk.app.finalized
    desk.deliver(binding, "{1: b'x'}", '{"a": 1}')
    desk.run()
    key = (1, frozenset({2}))
    assert calls == [(key, "ch", {1: b"x"}, 7), (key, "ch", {"a": 1}, 7)]
    assert "pgnotifier.a" not in desk.app.tasks


def test_a_signature_gets_them_before_its_own(desk, task, calls):
    """A signature gets the four arguments before its own; an immutable one doesn't get them."""
    desk.dispatch(
        (desk.subscribe(task.s("x", k=1)), "(1,)"), (desk.subscribe(task.si("x")), "(1,)")
    )
    desk.run()
    assert calls == [("a", "ch", (1,), 7, "x", ("k", 1)), ("x",)]


def test_a_signatures_options_hold_unless_the_subscription_says_else(desk, task):
    """A signature's own options apply, unless the subscription has the same ones."""
    signature = task.s().set(queue="low", priority=3)
    one, other = desk.subscribe(signature), desk.subscribe(signature, id="b", queue="high")
    desk.dispatch((one, "1"), (other, "2"))
    (low,), (high,) = desk.messages("low"), desk.messages("high")
    assert (low.properties["priority"], high.properties["priority"]) == (3, 3)


def test_a_task_of_another_program_is_known_by_name(desk):
    """The task of a signature doesn't have to be registered in this process."""
    desk.deliver(desk.subscribe(desk.app.signature("else.where")), "(1,)")
    (message,) = desk.messages()
    assert message.headers["task"] == "else.where"
    assert message.payload[0] == ["a", "ch", (1,), 7]


def test_canvases_are_enqueued_as_they_are(desk, task, calls):
    """All tasks of a group, the first of a chain and the header of a chord get the arguments."""
    parts = chain(task.s(1), task.s(2)), group(task.s(3), task.si(4)), task.s(5) | task.s(6)
    bindings = [desk.subscribe(part, id=str(at)) for at, part in enumerate(parts)]
    for _ in range(2):
        desk.dispatch(*((binding, "(9,)") for binding in bindings))
    messages = desk.messages()
    found = [
        (list(message.payload[0]), len(message.payload[2]["chain"] or ())) for message in messages
    ]
    once = [
        (["0", "ch", (9,), 7, 1], 1),
        (["1", "ch", (9,), 7, 3], 0),
        ([4], 0),
        (["2", "ch", (9,), 7, 5], 1),
    ]
    assert found == once + once
    assert len({message.headers["id"] for message in messages}) == 8
    assert not desk.reported


def test_a_shared_task_goes_to_the_dispatchers_app(app, make_desk):
    """A shared task is sent to the dispatcher's app, although no app is current in the thread."""
    import threading

    @shared_task(name="shared")
    def shared(*args):
        pass

    desk = make_desk(app)
    binding = desk.subscribe(shared)
    thread = threading.Thread(target=desk.deliver, args=(binding, "1"))
    thread.start()
    thread.join()
    assert [message.headers["task"] for message in desk.messages()] == ["shared"]


def test_a_task_of_another_app_goes_to_that_one(desk, make_desk):
    """A task of another app is sent to the queue of that app."""
    other = Celery("o", broker="memory://", task_default_queue="others", set_as_current=False)
    task = other.task(nothing, name="theirs")
    desk.deliver(desk.subscribe(task), "1")
    assert len(make_desk(other).messages()) == 1


# --- what the app configures is honoured --------------------------------------------------------


def test_routes_are_honoured(desk, task):
    """Routes apply to tasks made of callbacks, as they do to other tasks."""
    desk.app.conf.task_routes = {"pgnotifier.*": {"queue": "routed"}, "audit": "audits"}
    desk.dispatch((desk.subscribe(print), "1"), (desk.subscribe(task, id="b"), "2"))
    assert desk.arguments("routed") == [["a", "ch", 1, 7]]
    assert desk.arguments("audits") == [["b", "ch", 2, 7]]


def test_signals_are_sent(desk):
    """Signal receivers may change each message; one that raises doesn't prevent the publish."""
    sent = []

    def before(sender=None, headers=None, **_):
        headers["traced"] = "yes"

    def after(sender=None, **_):
        sent.append(sender)
        raise RuntimeError("a receiver's own")

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        desk.deliver(desk.subscribe(print), "1")
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    (message,) = desk.messages()
    assert message.headers["traced"] == "yes"
    assert sent == ["pgnotifier.a"]
    assert not desk.reported


def test_an_eager_app_runs_the_callback_here(desk, record):
    """An eager app runs the callback in this process, with a worker's arguments and no broker."""
    desk.app.conf.update(task_always_eager=True, broker_url="redis://localhost:1/0")
    assert not desk.deliver(desk.subscribe(record, id=("x",)), "{1: (2,)}", '{"__type__": 1}')
    assert record.calls == [(("x",), "ch", {1: (2,)}, 7), (("x",), "ch", {"__type__": 1}, 7)]


def test_an_eager_app_runs_tasks_and_canvases_here(desk, task, calls):
    """An eager app runs tasks and canvases in this process, with arguments of the same types."""
    desk.app.conf.update(task_always_eager=True)
    for fn in (
        task,
        task.s(1),
        chain(task.s(2), task.si(3)),
        group(task.s(4)),
        chord([task.s(5)], task.s(6)),
    ):
        desk.deliver(desk.subscribe(fn), "{1: (2,)}")
    head = ("a", "ch", {1: (2,)}, 7)
    assert calls == [head, (*head, 1), (*head, 2), (3,), (*head, 4), (*head, 5), ([None], 6)]
    assert not desk.reported


def test_an_eager_callback_that_fails_stops_nothing(desk, record):
    """An eager callback that raises a broker's error or SystemExit doesn't end the batch."""
    desk.app.conf.update(task_always_eager=True, task_eager_propagates=True)

    def fail(*_):
        raise OperationalError("the callback's own")

    bindings = [desk.subscribe(fn, id=str(fn)[:6]) for fn in (fail,)]
    bindings.append(desk.subscribe(lambda *_: sys.exit(3), id="exit"))
    bindings.append(desk.subscribe(record, id="fine"))
    assert not desk.dispatch(*((binding, "1") for binding in bindings))
    assert [type(exc) for exc in desk.reported] == [OperationalError, SystemExit]
    assert record.payloads == [1]


# --- batches ------------------------------------------------------------------------------------


def test_what_nobody_can_carry_is_set_aside(desk, task):
    """A delivery that can't be serialized is reported, and the rest of the batch is published."""
    good = desk.subscribe(print)
    bad = desk.subscribe(task, id=(object(),))
    assert not desk.dispatch((good, "1"), (bad, "2"), (good, "3"))
    assert [type(exc) for exc in desk.reported] == [EncodeError]
    assert [arguments[2] for arguments in desk.arguments()] == [1, 3]


def test_arguments_that_a_task_does_not_take_are_reported(desk, app):
    """If a task doesn't take the four arguments, its delivery is reported as failed."""
    task = app.task(one_argument, name="one")
    assert not desk.deliver(desk.subscribe(task), "1")
    assert [type(exc) for exc in desk.reported] == [TypeError]


def test_a_queue_that_does_not_exist_is_reported(desk):
    """If a missing queue may not be made, the delivery is reported, and the batch doesn't fail."""
    desk.app.conf.update(task_create_missing_queues=False)
    assert not desk.deliver(desk.subscribe(print, queue="nowhere"), "1")
    assert [type(exc).__name__ for exc in desk.reported] == ["QueueNotFound"]


def test_what_is_no_longer_live_is_passed_over(desk):
    """A delivery isn't published if its subscription was removed meanwhile."""
    gone, stays = desk.subscribe(print), desk.subscribe(print, id="b")
    gone.live = False
    assert not desk.dispatch((gone, "1"), (stays, "2"))
    assert [arguments[2] for arguments in desk.arguments()] == [2]


def test_a_batch_cancelled_in_the_middle_ends(desk, task):
    """If a batch is cancelled while it is published, the rest of it isn't published."""
    binding = desk.subscribe(print)
    batch = Batch([Delivery(binding, Notification("ch", 1, "1", 7, datetime.now(UTC)))] * 3)
    before = lambda **_: batch.cancel()  # noqa: E731
    signals.before_task_publish.connect(before, weak=False)
    try:
        desk.dispatcher.dispatch(batch)
    finally:
        signals.before_task_publish.disconnect(before)
    assert len(desk.messages()) == 1


@pytest.mark.parametrize(
    "url", ["redis://localhost:1/0", "redis://:sesame@localhost:1/0", "amqp://u:sesame@localhost:1"]
)
def test_a_broker_that_is_down_fails_the_batch_at_once(make_desk, url):
    """If the broker is down, the whole batch is left to be retried, and no password is shown."""
    desk = make_desk(Celery("x", broker=url, set_as_current=False))
    binding = desk.subscribe(print)
    batch = Batch(desk.deliveries((binding, "1"), (binding, "2")))
    for _ in range(2):
        with pytest.raises(OperationalError) as caught:
            desk.dispatcher.dispatch(batch)
        assert "sesame" not in f"{caught.value} {desk.dispatcher!r}"
    assert not desk.reported
    assert batch.remaining == 2


def test_which_failures_are_the_brokers(app):
    """A failure of the broker is recognised by its type, or by the type of its cause."""
    broker = Broker(app)
    app.conf.broker_url = "memory://"
    with broker.lease() as lease:
        producer = lease.producer
        backend_gave_up = RuntimeError("Retry limit exceeded")
        backend_gave_up.__cause__ = OperationalError()
        encoding = EncodeError()
        encoding.__cause__ = OperationalError()
        assert broker.has_failed(OperationalError(), producer)
        assert broker.has_failed(backend_gave_up, producer)
        unknown = OperationalError("'nonsense'")  # as kombu says of an unknown compression
        unknown.__cause__ = KeyError("nonsense")
        for exc in (encoding, unknown, KeyError("x"), ValueError(), TypeError()):
            assert not broker.has_failed(exc, producer)


def test_the_connection_is_kept_until_it_is_closed(app):
    """A connection is kept for the next batch, unless it fails or is in use during `close()`."""
    broker = Broker(app)
    with broker.lease() as first:
        pass
    with broker.lease() as second:
        with broker.lease() as third:
            assert third is not second
        broker.close()
    assert second is first
    with broker.lease() as fourth:
        assert fourth not in (second, third)
    with pytest.raises(ValueError, match="x"), broker.lease() as fifth:
        assert fifth is fourth
        raise ValueError("x")
    with broker.lease() as sixth:
        assert sixth is not fifth
    broker.close()


# --- notifiers ----------------------------------------------------------------------------------


def test_one_dispatcher_serves_one_notifier(app):
    """A second notifier is refused, because workers couldn't know which decoder to use."""
    dispatcher = CeleryDispatcher(app)
    Notifier(DSN, dispatcher=dispatcher)
    with pytest.raises(ConfigurationError, match="its own CeleryDispatcher") as caught:
        Notifier(DSN, dispatcher=dispatcher)
    assert "sesame" not in str(caught.value)


def test_an_app_knows_its_notifiers(app):
    """`notifiers_of` returns the notifiers of one app, each once, in order of creation."""
    assert notifiers_of(app) == []
    one = Notifier(DSN, dispatcher=CeleryDispatcher(app))
    two = Notifier(DSN)
    two.subscribe("x", "ch", print, dispatcher=CeleryDispatcher(app), autorun=False)
    two.subscribe("y", "ch", print, dispatcher=CeleryDispatcher(app, "p."), autorun=False)
    other = Celery("other", set_as_current=False)
    three = Notifier(DSN, dispatcher=CeleryDispatcher(other))
    assert notifiers_of(app) == [one, two]
    assert notifiers_of(other) == [three]
    assert not any(notifier.is_running() for notifier in (one, two, three))


def test_the_repr_shows_no_secret(app, make_desk):
    """The repr shows the app, the prefix and the number of tasks, but no password."""
    app.conf.broker_url = "redis://:sesame@localhost/0"
    desk = make_desk(app)
    desk.subscribe(print)
    shown = repr(desk.dispatcher)
    assert re.search(r"'shop'.*'pgnotifier\.'.*1 task", shown)
    assert "sesame" not in shown


def test_finalizing_beside_a_look_at_the_tasks():
    """Finalizing and binding need no lock that another thread holds as it reads `app.tasks`."""
    app = Celery("shop", set_as_current=False)
    dispatcher = CeleryDispatcher(app)
    dispatcher.bind(Subscription("a", "ch", print, dispatcher))
    with vars(Celery)["tasks"].lock:
        threads = [
            threading.Thread(target=app.finalize, daemon=True),
            threading.Thread(
                target=lambda: dispatcher.bind(Subscription("b", "ch", print, dispatcher)),
                daemon=True,
            ),
        ]
        for thread in threads:
            thread.start()
            thread.join(20)
            assert not thread.is_alive()
    assert {"pgnotifier.a", "pgnotifier.b"} <= app.tasks.keys()


def test_an_id_that_is_that_of_an_on_gap(make_app):
    """An id is refused if its task has the same name as another subscription's on_gap task."""
    notifier = Notifier("host=h", dispatcher=CeleryDispatcher(make_app()))

    def subscribe_first():
        notifier.subscribe("a", "orders", print, autorun=False, on_gap=print)

    def subscribe_second(channel="orders"):
        notifier.subscribe(("a", "gap"), channel, print, autorun=False)

    for first, second, left in (
        (subscribe_first, subscribe_second, "a"),
        (subscribe_second, subscribe_first, ("a", "gap")),
    ):
        first()
        with pytest.raises(TaskNameError, match="is that of another subscription's on_gap, too"):
            second()
        assert [*notifier.get_subscriptions()["orders"]] == [left]
        first()  # again
        notifier.unsubscribe(left, "orders", autorun=False)
        second()
        notifier.remove_channels("orders", autorun=False)
    subscribe_first()
    subscribe_second("invoices")
