"""Obstacles: which messages aren't stamped but left to Celery, and why."""

import functools
import re
import sys
from types import FunctionType

import pytest
from brokered import TEXTS, callback, own, twice
from celery import Celery, Task
from celery.app.amqp import AMQP
from kombu import Exchange, Producer, Queue

from pgnotifier.contrib.celery.obstacles import find_obstacle


class Overriding(Task):
    """A Task class that publishes in its own way."""

    def apply_async(self, args=None, kwargs=None, **options):
        """Add a header."""
        return super().apply_async(args, kwargs, **options, headers={"mine": "yes"})


def route_by_payload(name, args, kwargs, options, task=None, **_):
    return {"queue": "long" if len(str(args)) > 200 else "short"}


def clone(app):
    return Celery("other", broker=app.conf.broker_url, set_as_current=False)


def patched(task):
    task.apply_async = functools.partial(task.apply_async, headers={"trace": "abc"})
    return task


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


@pytest.mark.slow
@pytest.mark.parametrize("case", UNSTAMPED)
def test_obstacles(make_app, make_desk, pressed, caplog, pgnotifier_redis_url, case):
    """If a stamp could be wrong, Celery makes each message, and the debug log says why."""
    make_fn, options, conf, reason = UNSTAMPED[case]
    app = make_app(**conf)
    desk = make_desk(app)
    with caplog.at_level("DEBUG", logger="pgnotifier.celery"):
        binding = desk.subscribe(make_fn(app), **options)
        assert not desk.deliver(binding, *TEXTS[:2])
        del pressed[:]  # those that were only stamped for comparison
        assert not desk.deliver(binding, *TEXTS)
    assert pressed == []
    assert desk.reported == []
    (record,) = [r for r in caplog.records if "apply_async" in r.getMessage()]
    assert re.search(reason, record.getMessage())


METHODS = [
    (Task, "apply_async"),
    (Celery, "send_task"),
    (AMQP, "as_task_v2"),
    (Producer, "publish"),
]


@pytest.fixture
def bound_task(desk):
    """Return the target of a task's subscription."""
    return desk.subscribe(own(desk.app)).target


@pytest.mark.parametrize(("base", "name"), METHODS)
@pytest.mark.parametrize("kind", ["a wrapper", "a twin", "not a function"])
def test_patched_methods(bound_task, monkeypatch, base, name, kind):
    """A method that was replaced is an obstacle, however well the patch is disguised."""
    original = getattr(base, name)
    if kind == "a wrapper":
        patch = functools.wraps(original)(lambda *args, **kwargs: original(*args, **kwargs))
        source = sys.modules[base.__module__].__file__
        patch.__code__ = patch.__code__.replace(
            co_filename=source, co_qualname=original.__code__.co_qualname
        )
    elif kind == "a twin":  # another function of the same module
        twin = vars(base)["run" if base is Task else "__init__"]
        patch = FunctionType(twin.__code__, twin.__globals__, name)
        patch.__qualname__ = original.__qualname__
    else:
        patch = functools.partialmethod(original)
    assert find_obstacle(bound_task) is None
    monkeypatch.setattr(base, name, patch)
    assert f"{name} isn't" in find_obstacle(bound_task)


@pytest.mark.parametrize(("base", "name"), METHODS)
def test_moved_sources(bound_task, monkeypatch, base, name):
    """A method isn't mistaken for a patch if its source is elsewhere, or frozen into a program."""
    code = getattr(base, name).__code__
    monkeypatch.setattr(getattr(base, name), "__code__", code.replace(co_filename="<frozen>"))
    monkeypatch.delattr(sys.modules[base.__module__], "__file__")
    assert find_obstacle(bound_task) is None
