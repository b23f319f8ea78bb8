"""Measure durable delivery beside a transaction held open: `python benchmarks/durable_held.py`.

Eight writers publish 1,000 times a second, each publication a transaction of its own, and one
reader reads it. First nothing is held open. Then a transaction that has published something stays
open for 15 seconds, or with `--full` for ten minutes, and the last seconds of that are compared to
the first. The reader of the outbox has to look past all rows that it has deleted meanwhile, because
nothing can be vacuumed.

    pgnotifier    a Notifier with one callback
    outbox        `DELETE … FOR UPDATE SKIP LOCKED`, every 5 ms if there was nothing

The latency is the time from the publication to the callback.
"""

import statistics
import subprocess
import tempfile
from pathlib import Path

import psycopg
from children import Child
from commandline import Settings, run
from durable_queues import empty, install, pgbench
from names import OURS, OUTBOX
from results import Limit, Row, Section
from rounds import divide, take_turns
from servers import Servers

RATE = 1000
HOLD, FULL_HOLD, QUICK_HOLD = 15, 600, 2
"""For how many seconds the transaction is held open."""
WINDOW, QUICK_WINDOW = 5, 2
"""For how many seconds rate and latency are measured."""
TABLES = {OURS: "pgnotifier.log", OUTBOX: "outbox"}


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare rate and latency, with the transaction to without."""
    dsn = servers.durable_dsn
    install(dsn)
    hold = QUICK_HOLD if settings.quick else FULL_HOLD if settings.full else HOLD
    window = QUICK_WINDOW if settings.quick else WINDOW
    rounds = 1 if settings.full else min(3, settings.rounds)
    found = take_turns((OURS, OUTBOX), rounds, lambda name: measure(dsn, name, hold, window))
    rate = Section(f"rate, with a transaction open for {hold} s", "a second", "open / not open")
    latency = Section(
        f"latency, with a transaction open for {hold} s", "milliseconds", "open / not open"
    )
    for name in (OURS, OUTBOX):
        before, after = ([one[at] for one in found[name]] for at in (0, 1))
        for section, at, limit in (
            (rate, 0, Limit(0.8)),
            (latency, 1, Limit(1.2, at_most=True)),
        ):
            first, last = [one[at] for one in before], [one[at] for one in after]
            section.rows.append(Row(f"{name}, before", first))
            section.rows.append(
                Row(f"{name}, open", last, divide(last, first), limit if name == OURS else None)
            )
    return [rate, latency]


def measure(
    dsn: str, name: str, hold: int, window: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return rate and latency before the transaction begins, and when it has been open for long."""
    empty(dsn)
    with tempfile.TemporaryDirectory(prefix="pgnotifier-bench-") as directory:
        script = Path(directory, "script.sql")
        script.write_text(
            f"INSERT INTO {TABLES[name]} (channel, payload) "
            "VALUES (:channel::text, extract(epoch FROM clock_timestamp())::float8::text);\n"
        )
        seconds = 3 * window + hold + 60
        with (
            Child("durable_readers.py", name, dsn) as child,
            psycopg.connect(dsn) as connection,
            subprocess.Popen(
                pgbench(dsn, script, clients=8, amount=f"--time={seconds}", rate=RATE),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as writers,
        ):
            try:
                assert child.read_message() == "ready"
                _watch(child, 2)  # until all has warmed up
                before = _watch(child, window)
                connection.execute(
                    f"INSERT INTO {TABLES[name]} (channel, payload) VALUES ('held', '')".encode()
                )
                _watch(child, hold)
                after = _watch(child, window)
            finally:
                writers.kill()
    return before, after


def _watch(child: Child, seconds: int) -> tuple[float, float]:
    """Return the rate and the latency, in milliseconds, of some seconds."""
    reports = [child.read_message() for _ in range(seconds + 1)]
    latencies = [one["latency"] * 1000 for one in reports[1:] if one["latency"] is not None]
    rate = (reports[-1]["count"] - reports[0]["count"]) / seconds
    return rate, statistics.median(latencies or [0.0])


if __name__ == "__main__":
    run(__doc__, [benchmark])
