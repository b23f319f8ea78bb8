"""Cases to stamp: what makes the thing to subscribe, its options, and the app's settings."""

from datetime import UTC, datetime, timedelta

from brokered import callback, own
from celery import Task

LATER = datetime.now(UTC) + timedelta(hours=1)


class Entering(Task):
    """A Task class that overrides how its task runs, but not how it is published."""

    priority = 6

    def __call__(self, *args, **kwargs):
        """Run the task."""
        return super().__call__(*args, **kwargs)


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


def stamped(signature):
    signature.stamp(tenant="acme")
    return signature


def linked(task):
    return task.s().on_error(task.s("failed")).set(link=[task.s("done")])
