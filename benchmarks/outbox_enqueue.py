"""Measure how fast tasks are enqueued in a transaction: `python benchmarks/outbox_enqueue.py`.

All is measured in turn in one process, without the COMMIT. The best of five turns counts, because
what else the machine does can only add to them.

    pgnotifier                 `delay` in `with outbox():` inside of `atomic()`: one statement
    pgnotifier, each at once   `delay` inside of `atomic()`, with PGNOTIFIER["OUTBOX"]
    django-celery-outbox       `delay` inside of `atomic()`, with its app

    pgnotifier                 `enqueue_many` of a thousand signatures on a connection of psycopg
    one INSERT of the bytes    one INSERT of a thousand rows of the same texts into a plain table
"""

import psycopg
from children import Child
from commandline import Settings, run
from names import AT_ONCE, DJANGO_OUTBOX, INSERT, MANY, OURS
from results import Limit, Row, Section, compare
from rounds import divide, take_turns
from servers import Servers

from pgnotifier import durable

COUNT = 1000
FEWER = 10
"""Tasks that are enqueued by `delay` are the count divided by this."""
TURNS = 5
"""How many times each is measured in a round."""


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the rates, and the times of a thousand."""
    dsn, count = servers.durable_dsn, settings.count(COUNT)
    with psycopg.connect(dsn) as connection:
        durable.install(connection)
    fewer = max(1, count // FEWER)
    env = {"BENCH_DSN": dsn, "BENCH_BROKER": "redis://127.0.0.1:1/0"}
    with Child("outbox_enqueuers.py", count, fewer, env=env) as child:
        assert child.read_message() == "ready"
        names = [OURS, AT_ONCE, DJANGO_OUTBOX, MANY, INSERT]
        rounds = [
            take_turns(names, 1 if settings.quick else TURNS, child.ask)
            for _ in range(settings.rounds)
        ]
    best = {name: [min(found[name]) for found in rounds] for name in names}
    rates = {name: [fewer / one for one in best[name]] for name in (OURS, AT_ONCE, DJANGO_OUTBOX)}
    limits = {DJANGO_OUTBOX: Limit(5.0)}
    many = Section(f"{count:,} tasks at a time", "milliseconds", f"{OURS} / the INSERT")
    many.rows.append(
        Row(
            OURS,
            [one * 1000 for one in best[MANY]],
            divide(best[MANY], best[INSERT]),
            Limit(3.0, at_most=True),
        )
    )
    many.rows.append(Row(INSERT, [one * 1000 for one in best[INSERT]]))
    return [compare("enqueueing in a transaction", "a second", rates, OURS, limits), many]


if __name__ == "__main__":
    run(__doc__, [benchmark])
