"""No lock is held while Celery, or another dispatcher, binds a subscription."""

import threading

import pytest
from celery import Celery, Task
from celery.app.registry import TaskRegistry

from pgnotifier import Dispatcher, InlineDispatcher, ListenRefusedError, Notifier
from pgnotifier.contrib.celery import CeleryDispatcher
from pgnotifier.contrib.celery.tasks import AppTasks

DSN = "postgresql://nobody@localhost:1/nothing"
PATIENCE = 20


@pytest.fixture
def app():
    """Return an app that nothing has finalized yet."""
    return Celery("shop", broker="memory://", set_as_current=False)


def run_threads(*functions):
    """Run functions side by side; fail if one doesn't end, or raises."""
    errors = []

    def guarded(function):
        try:
            function()
        except Exception as exc:  # noqa: BLE001 - for the main thread to raise
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    assert not errors, errors


@pytest.mark.parametrize("how", ["subscribe", "unsubscribe", "mute", "remove"])
def test_a_handler_of_finalizing_changes_subscriptions(app, monkeypatch, how):
    """A finalize handler can change subscriptions while another thread subscribes: no deadlock."""
    handling, waiting = threading.Event(), threading.Event()
    finalize = app.finalize

    def observed(auto=False, **_):
        if handling.is_set():
            waiting.set()
        return finalize(auto=auto)

    monkeypatch.setattr(app, "finalize", observed)

    @app.on_after_finalize.connect(weak=False)
    def handler(**_):
        handling.set()
        assert waiting.wait(PATIENCE)
        changes[how]()

    notifier = Notifier(DSN, dispatcher=CeleryDispatcher(app))
    notifier.subscribe("early", "ch", print)
    changes = {
        "subscribe": lambda: notifier.subscribe("handler", "ch", print),
        "unsubscribe": lambda: notifier.unsubscribe("early", "ch"),
        "mute": lambda: notifier.mute_subscriber("early"),
        "remove": lambda: notifier.remove_channel("ch"),
    }

    def subscribe():
        assert handling.wait(PATIENCE)
        notifier.subscribe("thread", "other", print)

    run_threads(lambda: finalize(auto=True), subscribe)
    assert "other" in notifier.get_channels()
    assert "pgnotifier.thread" in app.tasks
    assert ("pgnotifier.handler" in app.tasks) is (how == "subscribe")


def test_a_task_class_subscribes_when_it_is_bound(app):
    """If a Task class's hook waits for another thread to subscribe, there is no deadlock."""
    notifier = Notifier(DSN, dispatcher=CeleryDispatcher(app))
    done = threading.Event()

    class Base(Task):
        @classmethod
        def on_bound(cls, _app):
            if not done.is_set():
                done.set()
                run_threads(lambda: notifier.subscribe("inner", "ch", print))

    app.finalize()
    notifier.subscribe("outer", "ch", print, task={"base": Base})
    assert {"pgnotifier.inner", "pgnotifier.outer"} <= set(app.tasks)


class Meeting(Dispatcher):
    """A dispatcher that calls `pause` at certain moments, so that another thread can run."""

    starts_listener = False

    def __init__(self):
        self.known = {}
        self.pause = lambda *_: None

    def bind(self, subscription):
        """Remember the subscription, after a pause."""
        self.pause("bind", subscription)
        self.known[subscription.id, subscription.channel] = subscription.fn
        self.pause("bound", subscription)
        return subscription.fn

    def unbind(self, subscription):
        """Forget the subscription, after a pause."""
        self.pause("unbind", subscription)
        self.known.pop((subscription.id, subscription.channel), None)

    def dispatch(self, batch):
        """Acknowledge the batch without delivering it."""
        batch.done(len(batch))


def check_agreement(notifier, dispatcher):
    """Check that a dispatcher knows what is registered, and nothing else."""
    found = notifier.get_subscriptions()
    assert dispatcher.known == {(key, ch): fn for ch, by in found.items() for key, fn in by.items()}


def test_unsubscribed_between_binding_and_registering():
    """If a subscription is removed while its successor is bound, the successor is registered."""
    dispatcher = Meeting()
    notifier = Notifier(DSN, dispatcher=dispatcher)
    notifier.subscribe("a", "ch", print)

    def pause(moment, _):
        if moment == "bound":
            dispatcher.pause = lambda *_: None
            run_threads(lambda: notifier.unsubscribe("a", "ch"))

    dispatcher.pause = pause
    notifier.subscribe("a", "ch", repr)
    assert notifier.get_subscriptions() == {"ch": {"a": repr}}
    check_agreement(notifier, dispatcher)


def test_subscribed_again_before_it_is_forgotten():
    """If an id is subscribed again before the old one is unbound, the new one stays bound."""
    dispatcher = Meeting()
    notifier = Notifier(DSN, dispatcher=dispatcher)
    notifier.subscribe("a", "ch", print)

    def pause(moment, _):
        if moment == "unbind":
            dispatcher.pause = lambda *_: None
            run_threads(lambda: notifier.subscribe("a", "ch", repr))

    dispatcher.pause = pause
    notifier.unsubscribe("a", "ch")
    assert notifier.get_subscriptions() == {"ch": {"a": repr}}
    check_agreement(notifier, dispatcher)


def test_what_failed_leaves_what_was():
    """If a callback is refused, the subscription that it would replace stays, with its on_gap."""
    dispatcher = Meeting()
    notifier = Notifier(DSN, dispatcher=dispatcher)
    notifier.subscribe("a", "ch", print, on_gap=repr)

    def refuse(moment, subscription):
        if moment == "bind" and subscription.fn is len:
            raise ValueError("refused")

    dispatcher.pause = refuse
    with pytest.raises(ValueError, match="refused"):
        notifier.subscribe("a", "ch", len, on_gap=str)
    assert dispatcher.known == {("a", "ch"): print, (("a", "gap"), "ch"): repr}


@pytest.mark.parametrize("same", [False, True])
def test_replaced_while_a_refused_one_is_undone(monkeypatch, same):
    """Undoing a subscription that the server refused keeps what another thread has subscribed."""
    dispatcher = Meeting()
    notifier = Notifier(DSN, dispatcher=dispatcher)
    notifier.subscribe("a", "ch", print)
    others = repr if same else len

    def refuse(done, autorun, *, keep, undo):
        monkeypatch.undo()
        dispatcher.pause = pause
        if same:
            notifier.subscribe("a", "ch", others)
        undo()
        raise ListenRefusedError("refused")

    def pause(moment, subscription):
        if moment == "bound" and subscription.fn is print:
            dispatcher.pause = lambda *_: None
            run_threads(lambda: notifier.subscribe("a", "ch", others))

    monkeypatch.setattr(notifier._changes.volatile, "_wait_live", refuse)
    with pytest.raises(ListenRefusedError):
        notifier.subscribe("a", "ch", repr)
    assert notifier.get_subscriptions() == {"ch": {"a": others}}
    check_agreement(notifier, dispatcher)


@pytest.mark.parametrize("kind", ["celery", "plain"])
def test_threads_that_change_the_same(app, kind):
    """After threads have changed the same subscription, the dispatcher agrees with the registry."""
    dispatcher = CeleryDispatcher(app) if kind == "celery" else Meeting()
    notifier = Notifier(DSN, dispatcher=dispatcher)
    app.finalize()
    callbacks = [lambda *_, n=n: n for n in range(3)]

    def change(number):
        for turn in range(60):
            match (turn + number) % 4:
                case 0:
                    notifier.unsubscribe("a", "ch")
                case 1:
                    notifier.remove_channel("ch")
                case _:
                    notifier.subscribe("a", "ch", callbacks[number])
                    notifier.subscribe("a", f"ch {number}", callbacks[number])

    for _ in range(5):
        run_threads(*(lambda n=n: change(n) for n in range(3)))
        if kind == "plain":
            check_agreement(notifier, dispatcher)
            continue
        registered = notifier.get_subscriptions()
        found = {channel: by["a"] for channel, by in registered.items()}
        (task,) = dispatcher._tasks._tasks.values()
        assert task.callbacks == found
        assert app.tasks["pgnotifier.a"]._pgnotifier_callback is task


def test_a_dispatcher_that_refuses_after_another_thread_was_faster():
    """If another thread is faster and the second bind is refused, the first bind is undone."""
    dispatcher = Meeting()
    notifier = Notifier(DSN, dispatcher=dispatcher)
    notifier.subscribe("other", "ch", print, dispatcher=InlineDispatcher())
    tries = []

    def pause(moment, subscription):
        if subscription.fn is not repr:
            return
        if moment == "bind":
            tries.append(moment)
            if len(tries) == 2:
                raise ValueError("refused")
        elif moment == "bound":
            run_threads(lambda: notifier.subscribe("a", "ch", str))

    dispatcher.pause = pause
    with pytest.raises(ValueError, match="refused"):
        notifier.subscribe("a", "ch", repr)
    assert len(tries) == 2
    assert dispatcher.known == {("a", "ch"): str}


def test_subscribed_again_while_its_task_is_removed(app, monkeypatch):
    """If an id is subscribed again while its task is removed, the new task stays registered."""
    app.finalize()
    notifier = Notifier(DSN, dispatcher=CeleryDispatcher(app))
    notifier.subscribe("a", "ch", print)
    subscribed = []

    class Registry(TaskRegistry):
        def pop(self, name, *default):
            if not subscribed:
                subscribed.append(name)
                run_threads(lambda: notifier.subscribe("a", "ch", len))
            return super().pop(name, *default)

    monkeypatch.setattr(app, "_tasks", Registry(app._tasks))
    notifier.unsubscribe("a", "ch")
    assert subscribed == ["pgnotifier.a"]
    (task,) = AppTasks.of(app)._tasks.values()
    assert task.callbacks == {"ch": len}
    assert app._tasks["pgnotifier.a"]._pgnotifier_callback is task


def test_what_celery_refuses_leaves_the_task_that_was(app):
    """If a Task class raises as it is bound, the previous callback and task stay."""
    app.finalize()
    notifier = Notifier(DSN, dispatcher=CeleryDispatcher(app))
    notifier.subscribe("a", "ch", print)

    class Base(Task):
        @classmethod
        def on_bound(cls, _app):
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        notifier.subscribe("a", "ch", len, task={"base": Base})
    assert notifier.get_subscriptions() == {"ch": {"a": print}}
    (task,) = AppTasks.of(app)._tasks.values()
    assert task.callbacks == {"ch": print}
    assert app.tasks["pgnotifier.a"]._pgnotifier_callback is task
    assert not isinstance(app.tasks["pgnotifier.a"], Base)
