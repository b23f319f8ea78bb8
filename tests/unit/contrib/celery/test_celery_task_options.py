"""The options of tasks made of callbacks: which are refused, and what the others do."""

import pytest
from celery import Celery, Task
from celery.exceptions import Retry

from pgnotifier import (
    ArgumentTypeError,
    ConfigurationError,
    InlineDispatcher,
    Notifier,
    UnknownOptionError,
)
from pgnotifier.contrib.celery import CeleryDispatcher, CeleryNotifier, configured

DSN = "dbname=nowhere"


@pytest.fixture
def app():
    """Return an app of the test's own."""
    return Celery("shop", broker="memory://", set_as_current=False)


@pytest.fixture
def notifier(app):
    """Return a notifier that enqueues the app's tasks."""
    return Notifier(DSN, dispatcher=CeleryDispatcher(app))


class Base(Task):
    """A Task class of a user's own."""

    own = 1


def subscribe(notifier, task, fn=print, id="a", channel="ch", **options):
    """Subscribe with task options."""
    notifier.subscribe(id, channel, fn, task=task, **options)


def test_they_are_the_tasks(app, notifier):
    """Task options are set on the task as by `app.task()`, and results are ignored by default."""
    options = {
        "autoretry_for": (OSError,),
        "max_retries": None,
        "retry_backoff": True,
        "acks_late": True,
        "rate_limit": "10/m",
        "time_limit": 30,
        "base": Base,
        "own": 2,
    }
    subscribe(notifier, options)
    task = app.tasks["pgnotifier.a"]
    assert isinstance(task, Base)
    assert (task.max_retries, task.acks_late, task.rate_limit) == (None, True, "10/m")
    assert (task.time_limit, task.own, task.ignore_result) == (30, 2, True)
    subscribe(notifier, {"ignore_result": False}, id="b")
    assert app.tasks["pgnotifier.b"].ignore_result is False


@pytest.mark.parametrize(
    ("task", "error", "says"),
    [
        ({"max_retrys": 5}, UnknownOptionError, "did you mean 'max_retries'"),
        ({"qqq": 5}, UnknownOptionError, "there are Request, Strategy"),
        ({7: 5}, UnknownOptionError, "no such option"),
        ({"own": 5}, UnknownOptionError, "no such option"),
        ({"name": "x"}, UnknownOptionError, "the name is made from the id"),
        ({"shared": True}, UnknownOptionError, "belongs to the dispatcher's app"),
        ({"lazy": False}, UnknownOptionError, "when the app is finalized"),
        ({"typing": False}, UnknownOptionError, "arguments come from the notification"),
        ({"run": print}, UnknownOptionError, "the task runs the callback"),
        ({"_pgnotifier_callback": 1}, UnknownOptionError, "no such option"),
        ([("max_retries", 5)], ArgumentTypeError, "must be a dict of options"),
        ("late", ArgumentTypeError, "must be a dict of options"),
        ({"autoretry_for": OSError}, ArgumentTypeError, "a tuple of exception classes"),
        ({"autoretry_for": ("OSError",)}, ArgumentTypeError, "a tuple of exception classes"),
        ({"max_retries": "5"}, ArgumentTypeError, "must be an int"),
        ({"max_retries": -1}, ConfigurationError, "at least 0"),
        ({"acks_late": "yes"}, ArgumentTypeError, "True or False"),
        ({"bind": 1}, ArgumentTypeError, "True or False"),
        ({"rate_limit": "often"}, ConfigurationError, "'10/m'"),
        ({"rate_limit": "10/year"}, ConfigurationError, "'10/m'"),
        ({"rate_limit": []}, ArgumentTypeError, "number per second"),
        ({"retry_backoff": "x"}, ArgumentTypeError, "number of seconds"),
        ({"retry_kwargs": 5}, ArgumentTypeError, "arguments of Task.retry"),
        ({"base": object}, ArgumentTypeError, "subclass of celery.Task"),
        ({"time_limit": 0}, ConfigurationError, "above 0"),
        ({"serializer": "morse"}, ConfigurationError, "no serializer of that name"),
        ({"on_failure": "log"}, ArgumentTypeError, "must be callable"),
    ],
)
def test_what_cannot_be(app, notifier, task, error, says):
    """An invalid task option is refused at once, with a reason, and nothing is subscribed."""
    with pytest.raises(error, match="subscription 'a': task=") as caught:
        subscribe(notifier, task)
    assert says in str(caught.value)
    assert notifier.get_subscriptions() == {}
    assert "pgnotifier.a" not in app.tasks


def test_an_option_of_tasks_given_as_one_of_publishing(notifier):
    """If a task option is given as a publish option, the error says where it belongs."""
    with pytest.raises(UnknownOptionError, match=r"give it as task=\{'max_retries': …\}"):
        notifier.subscribe("a", "ch", print, max_retries=5)
    with pytest.raises(UnknownOptionError, match="did you mean 'task'"):
        notifier.subscribe("a", "ch", print, tasks={})


def test_tasks_and_signatures_have_their_own(app, notifier):
    """`task=` is refused for tasks and signatures, and by an in-process dispatcher."""

    @app.task
    def own(*_): ...

    for fn in (own, own.s(), app.signature("elsewhere")):
        with pytest.raises(UnknownOptionError, match="task= is only for plain callables"):
            subscribe(notifier, {"max_retries": 5}, fn)
    subscribe(notifier, None, own)
    with pytest.raises(UnknownOptionError, match="'task'"):
        subscribe(notifier, {"max_retries": 5}, dispatcher=InlineDispatcher())


@pytest.mark.parametrize("finalized", [True, False])
def test_an_id_on_several_channels(app, notifier, finalized):
    """An id has the same task options on all channels; with one channel, they may be changed."""
    if finalized:
        app.finalize()
    subscribe(notifier, {"max_retries": 5})
    with pytest.raises(ConfigurationError, match="'a' has other task options on channel 'ch'"):
        notifier.subscribe("a", "other", print)
    subscribe(notifier, {"max_retries": 5}, channel="other")
    with pytest.raises(ConfigurationError, match="on channel 'other'"):
        subscribe(notifier, {"max_retries": 6})
    assert set(notifier.get_subscriptions()) == {"ch", "other"}
    notifier.unsubscribe("a", "other")
    subscribe(notifier, {"max_retries": 6})
    assert app.tasks["pgnotifier.a"].max_retries == 6
    notifier.subscribe("a", "other", print, task={"max_retries": 6})


def test_on_gap_has_them_too(app, notifier):
    """An on_gap callback gets the task options, too, but not an on_gap that is a task."""

    @app.task(name="own")
    def own(*_): ...

    subscribe(notifier, {"max_retries": 7}, on_gap=print)
    assert app.tasks["pgnotifier.a.gap"].max_retries == 7
    subscribe(notifier, {"max_retries": 7}, id="b", on_gap=own)
    assert "pgnotifier.b.gap" not in app.tasks


def test_bound(app, notifier):
    """With `bind`, the callback gets the task before the four arguments."""
    found = []
    subscribe(notifier, {"bind": True}, lambda *args: found.append(args))
    task = app.tasks["pgnotifier.a"]
    task("a", "ch", 1, 7)
    assert found == [(task, "a", "ch", 1, 7)]


def test_on_and_shared(app):
    """The decorators accept task options, as `subscribe()` does."""
    notifier = CeleryNotifier(app, db_conf=DSN)
    notifier.on(["one", "two"], id="a", task={"max_retries": 5})(print)
    configured.shared_subscription("ch", id="b", task={"max_retries": 6})(print)
    assert app.tasks["pgnotifier.a"].max_retries == 5
    assert app.tasks["pgnotifier.b"].max_retries == 6


def test_a_retry_has_the_arguments_as_they_came(app, notifier):
    """A retry by `autoretry_for` sends the arguments again as they were received."""
    sent = []

    def fail(*_):
        raise OSError

    options = {"autoretry_for": (OSError,), "retry_kwargs": {"countdown": 0}}
    subscribe(notifier, options, fail)
    task = app.tasks["pgnotifier.a"]
    args = ["a", "ch", {"__exact__": 1}, 7]
    task.push_request(args=args, kwargs={}, id="x", called_directly=False, is_eager=False)
    task.subtask_from_request = None
    task.signature_from_request = lambda *_, **__: (
        sent.append(task.request.args) or app.signature("elsewhere")
    )
    with pytest.raises(Retry):
        task.run(*args)
    assert sent == [args]
