"""Measure what looking on costs those who send: `python benchmarks/onlookers.py`.

One connection notifies, in a transaction each, while a listener in another process calls a
callback. Meanwhile nobody looks on, or one of these does:

    status      `pgnotifier status --watch 2`
    console     `pgnotifier console`, which asks every two seconds, too
    tail        `pgnotifier tail`, which is a second listener on the channel

Where a sender never pauses, it has one of two cores and the listener the other, so whatever looks
on takes some of that. At the pace of an application, it does not. Both are measured, the second as
the median time of a transaction.
"""

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg
from children import Child
from commandline import Settings, run
from results import Limit, Row, Section
from rounds import divide, take_turns
from servers import Servers

COUNT = 20_000
PACED = 600
PACE = 0.005
"""Seconds between two transactions at the pace of an application."""
ALONE = "nobody looks on"
ONLOOKERS = {
    "status": ["status", "--watch", "2", "--json"],
    "console": ["console", "--port", "0"],
    "tail": ["tail", "bench0", "--json"],
}
LIMITS = {"status": Limit(0.95), "console": Limit(0.95)}
START = 4.0
"""Seconds that an onlooker has to start, and to be past its first questions."""


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare senders with and without onlookers."""
    count, paced = settings.count(COUNT), max(20, settings.count(PACED))
    with Child("idler.py", "pgnotifier", servers.dsn, 10**9) as listener:
        listener.read_message()  # once it listens
        with psycopg.connect(servers.dsn, autocommit=True) as connection:

            def send(name: str) -> tuple[float, float]:
                with looking_on(name, servers.dsn, 0.0 if settings.quick else START):
                    return rate(connection, count), 1e6 * time_of_one(connection, paced)

            found = take_turns([ALONE, *ONLOOKERS], settings.rounds, send)
    fast = Section("a sender without a pause", "NOTIFY a second", f"each / {ALONE}")
    steady = Section("a sender at its own pace", "µs for a NOTIFY", f"each / {ALONE}")
    for name, figures in found.items():
        rates, times = ([one[at] for one in figures] for at in (0, 1))
        alone = [[one[at] for one in found[ALONE]] for at in (0, 1)]
        limit = None if settings.quick else LIMITS.get(name)
        compared = name != ALONE
        fast.rows.append(Row(name, rates, divide(rates, alone[0]) if compared else (), limit))
        steady.rows.append(Row(name, times, divide(times, alone[1]) if compared else ()))
    return [fast, steady]


def rate(connection: psycopg.Connection, count: int) -> float:
    """Return how many notifications a second can be sent."""
    began = time.perf_counter()
    for number in range(count):
        connection.execute("SELECT pg_notify('bench0', %s)", [str(number)])
    return count / (time.perf_counter() - began)


def time_of_one(connection: psycopg.Connection, count: int) -> float:
    """Return the median of the seconds that one takes, with pauses in between."""
    found = []
    for number in range(count):
        time.sleep(PACE)
        began = time.perf_counter()
        connection.execute("SELECT pg_notify('bench0', %s)", [str(number)])
        found.append(time.perf_counter() - began)
    return statistics.median(found)


@contextlib.contextmanager
def looking_on(name: str, dsn: str, wait: float) -> Iterator[None]:
    """Run an onlooker during the `with` block; nobody for `ALONE`."""
    if name == ALONE:
        yield
        return
    argv = [sys.executable, "-m", "pgnotifier", *ONLOOKERS[name], "--dsn", dsn]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(wait)
            if process.poll() is not None:
                raise RuntimeError(f"{name} has ended with code {process.returncode}")
            yield
        finally:
            process.terminate()


if __name__ == "__main__":
    run(__doc__, [benchmark])
