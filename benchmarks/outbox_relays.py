"""Fill the broker from an outbox, or with messages that are ready-made, in a process of its own."""

import argparse
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import redis
from celery import Celery
from children import end_with_parent, write_message
from durable_relays import wait_for_start
from names import DJANGO_OUTBOX, LOOP, OURS, RAW, RAW_MANY
from outbox_made import ARGUMENTS, FILL, TASK, make_message
from psycopg.conninfo import conninfo_to_dict

from pgnotifier import Notifier
from pgnotifier.contrib.celery.relay import OutboxDispatcher

DSN, BROKER = os.environ["BENCH_DSN"], os.environ["BENCH_BROKER"]
SOME = 500
"""How many messages are pushed together."""


def relay_log(_: int) -> None:
    """Relay with a notifier."""
    app = Celery("bench", broker=BROKER)
    with Notifier(DSN) as notifier:
        OutboxDispatcher(app).relay_to(notifier)
        wait_for_start()
        notifier.start()
        threading.Event().wait()


def push_each(client: redis.Redis, texts: list[str]) -> None:
    """Push messages with a command for each."""
    with client.pipeline(transaction=False) as pipe:
        for text in texts:
            pipe.lpush("celery", text)
        pipe.execute()


def push_together(client: redis.Redis, texts: list[str]) -> None:
    """Push messages with one command."""
    client.lpush("celery", *texts)


def push(count: int, push_some: Callable[[redis.Redis, list[str]], None]) -> None:
    """Push messages that are ready-made."""
    texts = [make_message(str(uuid.uuid4()), str(uuid.uuid4())) for _ in range(count)]
    with redis.Redis.from_url(BROKER) as client:
        client.ping()
        wait_for_start()
        for at in range(0, count, SOME):
            push_some(client, texts[at : at + SOME])


def call(count: int) -> None:
    """Call `delay` again and again."""
    with Celery("bench", broker=BROKER) as app:
        work = app.task(name=TASK)(_work)
        work.delay(*ARGUMENTS)
        wait_for_start()
        for _ in range(count - 1):
            work.delay(*ARGUMENTS)


def relay_django(_: int) -> None:
    """Run the relay of django-celery-outbox, with larger batches than its default, 100."""
    from django.core.management import call_command

    set_up_django()
    wait_for_start()
    call_command("celery_outbox_relay", batch_size=1000)


def fill_django(count: int) -> None:
    """Enqueue with django-celery-outbox, in transactions of a hundred tasks."""
    from django.core.management import call_command
    from django.db import transaction

    app = set_up_django()
    call_command("migrate", verbosity=0)
    work = app.task(_work, name=TASK)
    for at in range(0, count, 100):
        with transaction.atomic():
            for _ in range(min(100, count - at)):
                work.delay(*ARGUMENTS)
    write_message("filled")


def set_up_django() -> Any:
    """Set Django up with django-celery-outbox; return its app."""
    import django
    from django.conf import settings

    parts: dict[str, Any] = conninfo_to_dict(DSN)
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": parts.pop("dbname")}
    settings.configure(
        DATABASES={"default": database | {name.upper(): part for name, part in parts.items()}},
        INSTALLED_APPS=["django_celery_outbox"],
        CELERY_OUTBOX_APP="outbox_django.app",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        LOGGING_CONFIG=None,
        USE_TZ=True,
    )
    django.setup()
    from outbox_django import app

    return app


def _work(*_: object) -> None:
    """Do nothing."""


MAIN: Mapping[str, Callable[[int], None]] = {
    OURS: relay_log,
    RAW: partial(push, push_some=push_each),
    RAW_MANY: partial(push, push_some=push_together),
    LOOP: call,
    DJANGO_OUTBOX: relay_django,
    FILL: fill_django,
}


def main() -> None:
    """Do what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=MAIN)
    parser.add_argument("count", type=int)
    given = parser.parse_args()
    end_with_parent()
    MAIN[given.name](given.count)


if __name__ == "__main__":
    main()
