"""Texts of messages as Celery makes them, for tests that put them into an outbox."""

import json
from contextlib import closing

from celery import Celery
from redis import Redis

from pgnotifier.contrib.celery.outbox_capture import Capture
from pgnotifier.contrib.celery.outbox_messages import make


def catch(app, url, publish):
    """Return key and text of each message that a function publishes to Redis, which is emptied.

    Args:
        app: The app that publishes.
        url: The Redis database, which nothing else uses.
        publish: Publishes with that app.
    """
    with closing(Redis.from_url(url, decode_responses=True)) as redis:
        publish()
        found = []
        for key in redis.keys("*"):
            if redis.type(key) == "list":
                found += redis.lrange(key, 0, -1)
        redis.flushdb()
    return [(make(json.loads(text))[0], text) for text in reversed(found)]


def capture(app, publish):
    """Return the entries that an outbox makes of what a function publishes."""
    with Capture.of(app).record() as recording:
        publish(app)
    return recording.drafts


def make_app(broker, **conf):
    """Return an app with two tasks."""
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(task_routes={"shop.ship": {"queue": "low", "priority": 3}}, **conf)

    @app.task(name="shop.invoice", shared=False)
    def invoice(order, copies=1):
        """Do nothing: no worker runs."""

    @app.task(name="shop.ship", shared=False)
    def ship(order):
        """Do nothing: no worker runs."""

    return app


def publish_some(app):
    """Publish messages that differ in all that messages can differ in."""
    # The name of the queue for answers is the app's own by default.
    invoice = app.tasks["shop.invoice"].s().set(reply_to="answers")
    invoice.apply_async((1,), task_id="one")
    invoice.apply_async((2,), {"copies": 3}, task_id="two", priority=5)
    invoice.apply_async((3,), task_id="three", headers={"n": 1, "f": 0.5, "d": {"a": [1, None]}})
    invoice.apply_async((4,), task_id="four", expiration=600, delivery_mode=1)
    invoice.apply_async(("é" * 300_000,), task_id="five", compression="zlib")
    invoice.apply_async((6,), task_id="six", serializer="pickle", eta=None, time_limit=9)
