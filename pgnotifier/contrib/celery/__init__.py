"""Deliver notifications as Celery tasks, which workers run.

    app = Celery("shop", broker="redis://localhost/0")
    app.conf.pgnotifier_dsn = "postgresql://localhost/shop"
    notifier = CeleryNotifier(app)

    @notifier.on("image_uploaded", id="resize")         # becomes the task "pgnotifier.resize"
    def resize(id, channel, payload, pid): ...

    notifier.subscribe("audit", "image_uploaded", audit.s().set(queue="low"))

`celery -A shop worker` runs the tasks; `celery -A shop pgnotifier` listens and enqueues them.
Importing the module starts neither.

`CeleryOutbox` publishes tasks as part of a transaction.

    delivery -> options, arguments -> publisher   -> carriers -> broker ..> worker -> callback
                naming: the task      stamping, or   many at    one        tasks: finds the
                of an id              apply_async    a time     connection callback by channel
"""

from pgnotifier.contrib import naming_extra

with naming_extra("celery"):
    from pgnotifier.contrib.celery.configured import CeleryNotifier, shared_subscription
    from pgnotifier.contrib.celery.dispatcher import CeleryDispatcher, notifiers_of
    from pgnotifier.contrib.celery.errors import CallbackNotFoundError, MessageFormatError
    from pgnotifier.contrib.celery.outbox import CeleryOutbox

__all__ = [
    "CallbackNotFoundError",
    "CeleryDispatcher",
    "CeleryNotifier",
    "CeleryOutbox",
    "MessageFormatError",
    "notifiers_of",
    "shared_subscription",
]
