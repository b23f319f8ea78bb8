"""The Celery app, its outbox, and the notifier that relays what is in it."""

from celery import Celery

from market.settings import BROKER, DSN
from pgnotifier.contrib.celery import CeleryNotifier

app = Celery("market", broker=BROKER, include=["market.tasks"])
app.conf.update(pgnotifier_dsn=DSN, broker_connection_retry_on_startup=True)
outbox = CeleryNotifier(app).outbox
