"""The inventory: which task, queue and path each subscription has."""

import json
import threading

import pytest
from brokered import TEXTS, callback, own, twice
from celery import signals
from kombu import Exchange, Queue

from pgnotifier.contrib.celery.workers import Question


def rows(desk):
    """Return the inventory, without the channels."""
    return [(e.id, e.task, e.queue, e.path) for e in desk.dispatcher.inventory().values()]


def test_tasks_and_queues(make_app, make_desk):
    """Each subscription has the task and the queue that its messages go to."""
    app = make_app(
        task_routes={"pgnotifier.routed": {"queue": "low"}, "own": {"queue": "shop"}},
    )
    desk = make_desk(app)
    task = own(app)
    desk.subscribe(callback)
    desk.subscribe(callback, id="routed")
    desk.subscribe(callback, id=("a", 1), queue="images")
    desk.subscribe(task, id="task")
    desk.subscribe(task.s().set(queue="set"), id="signature")
    desk.subscribe(app.signature("elsewhere.task"), id="elsewhere")
    topics = Queue("t", Exchange("topics", "topic"), routing_key="x")
    desk.subscribe(callback, id="exchange", exchange="topics", routing_key="x")
    desk.subscribe(callback, id="topic", queue=topics)
    desk.subscribe(twice(task), id="canvas")
    stamped = [row[:3] for row in rows(desk) if row[3] == "stamped"]
    assert stamped == [
        ("a", "pgnotifier.a", "celery"),
        ("routed", "pgnotifier.routed", "low"),
        ("('a', 1)", "pgnotifier.a.1", "images"),
        ("task", "own", "shop"),
        ("signature", "own", "set"),
        ("elsewhere", "elsewhere.task", "celery"),
        ("exchange", "pgnotifier.exchange", "topics/x"),
        ("topic", "pgnotifier.topic", "t"),
    ]
    (canvas,) = [row for row in rows(desk) if row[3] == "apply_async"]
    assert canvas[0] == "canvas"
    assert "own" in canvas[1]


def test_reasons(make_app, make_desk):
    """The inventory shows why messages can't be stamped, as soon as the reason is known."""
    desk = make_desk(make_app())
    fanout = desk.subscribe(callback, queue=Queue("all", Exchange("all", "fanout")))
    desk.subscribe(twice(own(desk.app)), id="canvas")
    desk.subscribe(callback, id="b")
    reasons = {e.id: e.reason for e in desk.dispatcher.inventory().values()}
    assert reasons == {"a": None, "canvas": "it is a canvas", "b": None}
    desk.deliver(fanout, *TEXTS)
    reasons = {e.id: e.reason for e in desk.dispatcher.inventory().values()}
    assert "one queue" in reasons["a"]

    def receive(**_): ...

    signals.after_task_publish.connect(receive)
    try:
        reasons = {e.id: e.reason for e in desk.dispatcher.inventory().values()}
    finally:
        signals.after_task_publish.disconnect(receive)
    assert "after_task_publish" in reasons["b"]


def test_removed_subscriptions_are_not_in_it(make_app, make_desk):
    """A removed subscription isn't listed, and a replaced one is listed once."""
    desk = make_desk(make_app())
    first = desk.subscribe(callback)
    desk.subscribe(own(desk.app))
    assert [row[1] for row in rows(desk)] == ["own"]
    desk.dispatcher.unbind(first.subscription)
    assert rows(desk) == []


def test_a_router_that_fails(make_app, make_desk):
    """If a router raises because it needs the arguments, the queue is shown as unknown."""

    def route(name, args, kwargs, options, task=None, **_):
        return {"queue": args[1]}

    desk = make_desk(make_app(task_routes=[route]))
    desk.subscribe(callback)
    ((_, _, queue, path),) = rows(desk)
    assert (queue, path) == ("? (IndexError)", "apply_async")


@pytest.mark.parametrize("finalized", [False, True])
def test_details(make_app, make_desk, finalized):
    """`details()` returns the inventory as JSON values, and doesn't finalize the app."""
    app = make_app()
    desk = make_desk(app)
    desk.subscribe(callback)
    if finalized:
        app.finalize()
    (listed,) = desk.dispatcher.details().values()
    assert app.finalized == finalized
    assert json.loads(json.dumps(listed)) == listed
    expected = {
        "id": "a",
        "channel": "ch",
        "task": "pgnotifier.a",
        "queue": "celery",
        "path": "stamped",
        "reason": None,
    }
    assert listed == ([expected] if finalized else [])


def test_the_workers_without_a_thread(make_app, monkeypatch, caplog):
    """If no thread can be started to ask the workers, a warning is logged, and nothing waits."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with Question(make_app(), []):
        pass
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert warning.pgnotifier_event == "no_thread"
    assert "can't start new thread" in warning.getMessage()
