"""Enqueue tasks in transactions of Django and psycopg, in a process of its own.

The parent sends the name of what to do, and gets the time that it took, in seconds.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
from celery import Celery
from children import write_message
from names import AT_ONCE, DJANGO_OUTBOX, INSERT, MANY, OURS
from outbox_made import ARGUMENTS, TASK
from outbox_relays import set_up_django

from pgnotifier.contrib.celery import CeleryOutbox

DSN, BROKER = os.environ["BENCH_DSN"], os.environ["BENCH_BROKER"]


def main() -> None:
    """Answer the parent until it closes the pipe."""
    count, fewer = map(int, sys.argv[1:])
    theirs = set_up_django()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    ours = Celery("bench", broker=BROKER)
    outbox = CeleryOutbox(ours)
    at_once = Celery("at-once", broker=BROKER)
    connection = psycopg.connect(DSN)
    runs: dict[str, Callable[[], float]] = {
        OURS: lambda: enqueue(ours, fewer, outbox),
        AT_ONCE: lambda: enqueue(at_once, fewer),
        DJANGO_OUTBOX: lambda: enqueue(theirs, fewer),
        MANY: lambda: enqueue_many(connection, ours, outbox, count),
        INSERT: lambda: insert(connection, count),
    }
    use_django(at_once)
    connection.execute("CREATE TABLE raw (id bigserial PRIMARY KEY, key text, payload text)")
    connection.commit()
    for run in runs.values():
        run()
        run()  # by then, the outbox is open, and its stamps are proven
    write_message("ready")
    while name := sys.stdin.readline().strip():
        write_message(runs[name]())


def use_django(app: Celery) -> None:
    """Have the tasks of an app inserted at once, as PGNOTIFIER["OUTBOX"] does."""
    from pgnotifier.contrib.django.task_outbox import insert_at_once

    insert_at_once(CeleryOutbox(app), ["default"])


def enqueue(
    app: Celery, count: int, outbox: Callable[[], AbstractContextManager[None]] = nullcontext
) -> float:
    """Call `delay` in a transaction of Django; return how long it took, without the commit."""
    from django.db import transaction

    task: Any = app.tasks.get(TASK) or app.task(name=TASK)(_work)
    with transaction.atomic():
        began = time.perf_counter()
        with outbox():
            for _ in range(count):
                task.delay(*ARGUMENTS)
        return time.perf_counter() - began


def enqueue_many(
    connection: psycopg.Connection, app: Celery, outbox: CeleryOutbox, count: int
) -> float:
    """Call `enqueue_many` in a transaction of psycopg; return how long it took."""
    signatures = [app.tasks[TASK].s(*ARGUMENTS) for _ in range(count)]
    with connection.transaction():
        began = time.perf_counter()
        outbox.enqueue_many(connection, signatures)
        return time.perf_counter() - began


def insert(connection: psycopg.Connection, count: int) -> float:
    """Insert the same texts into a plain table with one statement; return how long it took."""
    rows = connection.execute(
        "SELECT key, payload FROM pgnotifier.log ORDER BY id DESC LIMIT %s", (count,)
    ).fetchall()
    values = [part for row in rows for part in row]
    statement = "INSERT INTO raw (key, payload) VALUES " + ", ".join(["(%s, %s)"] * len(rows))
    with connection.transaction():
        began = time.perf_counter()
        connection.execute(statement.encode(), values)
        return time.perf_counter() - began


def _work(*_: object) -> None:
    """Do nothing."""


if __name__ == "__main__":
    main()
