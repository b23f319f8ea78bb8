"""Measure many durable subscriptions: `python benchmarks/durable_subscriptions.py`.

One notifier has from 1 to 500 of them, each on a channel of its own, with a callback in the
process. Entries are published one at a time, each for one of the channels at random. The time is
measured from the end of the COMMIT to the callback.
"""

import random
import threading
import time

import psycopg
from commandline import Settings, run
from results import Row, Section
from rounds import divide
from servers import Servers

from pgnotifier import InlineDispatcher, Notifier, durable

NUMBERS = (1, 10, 100, 500)
COUNT = 60
PAUSE = 0.04
"""Seconds between two publications."""
SETTLED = 1.0
"""Seconds after the start, in which each subscription gets its position."""
TIMEOUT = 60  # seconds


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Return the curve of the median times."""
    dsn = servers.durable_dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        durable.install(connection)
        count = max(3, settings.count(COUNT))
        found: dict[int, list[float]] = {number: [] for number in NUMBERS}
        for _ in range(settings.rounds):
            for number in NUMBERS:
                found[number].append(measure(connection, dsn, number, count))
            connection.execute("DELETE FROM pgnotifier.subscription")
    title = "from COMMIT to callback, with many durable subscriptions"
    section = Section(title, "ms", "each / one")
    for number, times in found.items():
        ratios = divide(times, found[1]) if number > 1 else ()
        section.rows.append(Row(f"{number:,} of them", times, ratios, at=number))
    return [section]


def measure(connection: psycopg.Connection, dsn: str, number: int, count: int) -> float:
    """Return the median of the milliseconds from a COMMIT to the callback.

    Args:
        connection: Publishes.
        dsn: The database.
        number: How many subscriptions there are.
        count: How many entries to publish.
    """
    arrived, at = threading.Event(), [0.0]

    def note(*_: object) -> None:
        at[0] = time.perf_counter()
        arrived.set()

    took = []
    with Notifier(dsn, dispatcher=InlineDispatcher()) as notifier:
        for name in map(str, range(number)):
            notifier.subscribe(name, name, note, durable=True)
        notifier.start()
        time.sleep(SETTLED)
        for _ in range(count):
            arrived.clear()
            durable.publish(connection, str(random.randrange(number)), 1)
            committed = time.perf_counter()
            assert arrived.wait(TIMEOUT), "something was lost"
            took.append(at[0] - committed)
            time.sleep(PAUSE)
    return sorted(took)[count // 2] * 1000


if __name__ == "__main__":
    run(__doc__, [benchmark])
