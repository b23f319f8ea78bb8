"""Deliver notifications as RQ jobs, which workers run.

    notifier = Notifier(conf, dispatcher=RQDispatcher(Redis()))
    notifier.subscribe("resize", "image_uploaded", resize, queue="images", job_timeout=60)

`rq worker` runs the jobs, and `pgnotifier listen shop:notifier` listens and enqueues them.
Importing the module starts neither.

    delivery -> options      -> stamping       -> sending        ..> worker -> callback
                checked when    RQ's commands,    many jobs in       jobs: gives it
                subscribing     learnt once       a transaction      its arguments
"""

from pgnotifier.contrib import naming_extra

with naming_extra("rq"):
    from pgnotifier.contrib.rq.dispatcher import RQDispatcher
    from pgnotifier.contrib.rq.outbox import RQOutbox

__all__ = ["RQDispatcher", "RQOutbox"]
