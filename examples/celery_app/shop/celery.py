"""The Celery app: its broker, its routes, and the modules that workers import."""

from celery import Celery

from shop.settings import BROKER, DSN

app = Celery("shop", broker=BROKER, include=["shop.tasks", "shop.notifications"])
app.conf.update(
    pgnotifier_dsn=DSN,
    task_routes={"pgnotifier.resize": {"queue": "images"}},
    broker_connection_retry_on_startup=True,
    # What a killed worker had is executed by another one after so many seconds, in which each task
    # has to be done.
    broker_transport_options={"visibility_timeout": 10},
)
