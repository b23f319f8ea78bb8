"""Commit transactions of Django with a task each, 50 a second, in a process of its own.

The parent sends a name, the first number and how many, and gets when each COMMIT has begun.
"""

import sys
import time
from functools import partial

from children import write_message
from names import OURS
from outbox_app import note, outbox
from outbox_relays import set_up_django

RATE = 50


def main() -> None:
    """Answer the parent until it closes the pipe."""
    set_up_django()
    write_message("ready")
    while line := sys.stdin.readline().strip():
        name, first, count = line.rsplit(" ", 2)
        write_message(send(name, int(first), int(count)))


def send(name: str, first: int, count: int) -> list[float]:
    """Commit; return when each COMMIT has begun."""
    from django.db import connection, transaction

    began, committed = time.monotonic(), []
    for place in range(count):
        time.sleep(max(0.0, began + place / RATE - time.monotonic()))
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("INSERT INTO orders (id) VALUES (%s)", (first + place,))
            if name == OURS:
                outbox.enqueue(None, note, args=(first + place,))
            else:  # as `delay_on_commit` of Celery's tasks for Django
                transaction.on_commit(partial(note.delay, first + place))
            committed.append(time.monotonic())
    return committed


if __name__ == "__main__":
    main()
