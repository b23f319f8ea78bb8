"""Obstacles: what is left to Celery, message by message, and why."""

import functools
import re

import pytest
from brokered import TEXTS, callback, own, twice
from celery import Celery, Task
from kombu import Exchange, Queue


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
