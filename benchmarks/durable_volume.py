"""Send many durable publications through the log: `python benchmarks/durable_volume.py`.

A million of them, or ten million with `--full`, in transactions of a thousand, while a Notifier
reads them. What the log takes on the disk is looked at all the time. Then a million come in one
transaction: no batch of it may take long.
"""

import time
from typing import Any

import psycopg
from children import Child
from commandline import Settings, run
from durable_queues import CHANNEL, PAYLOAD, empty, install
from names import OURS
from results import Limit, Row, Section
from rounds import divide
from servers import Servers

COUNT, FULL_COUNT = 1_000_000, 10_000_000
LONE = 1_000_000
PARTS = 10
TOGETHER = 1000
MOST = 640.0
"""MB on the disk: eight slots of 64 MiB, with their indexes."""

SIZE = """
SELECT sum(pg_total_relation_size(inhrelid)) / 1e6, sum(pg_stat_get_dead_tuples(inhrelid))
FROM pg_inherits WHERE inhparent = 'pgnotifier.log'::regclass
"""


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Measure both."""
    dsn = servers.durable_dsn
    install(dsn)
    part = settings.count(FULL_COUNT if settings.full else COUNT) // PARTS
    part = max(TOGETHER, part // TOGETHER * TOGETHER)
    many = Section(f"{part * PARTS:,} entries through the log", "MB; rows; seconds", "last / first")
    seconds, size, dead = send_many(dsn, part)
    first, last = min(seconds[:3]), min(seconds[-3:])
    many.rows.append(Row("largest size", [size], limit=Limit(MOST, at_most=True)))
    many.rows.append(Row("dead rows", [dead], limit=Limit(0, at_most=True)))
    many.rows.append(Row("a tenth, of the first", [first]))
    many.rows.append(
        Row("a tenth, of the last", [last], divide([last], [first]), Limit(1.2, at_most=True))
    )
    count = settings.count(LONE)
    lone = Section(f"a transaction of {count:,} entries", "milliseconds; a second")
    found = [send_at_once(dsn, count) for _ in range(min(3, settings.rounds))]
    lone.rows.append(
        Row("longest batch", [gap for gap, _ in found], limit=Limit(100, at_most=True))
    )
    lone.rows.append(Row(f"{OURS}, rate", [rate for _, rate in found]))
    return [many, lone]


def send_many(dsn: str, part: int) -> tuple[list[float], float, float]:
    """Return the seconds that each part took, the largest size in MB, and the dead rows."""
    empty(dsn)
    statement = (
        f"DO $$ BEGIN FOR n IN 1..{part // TOGETHER} LOOP "
        f"INSERT INTO pgnotifier.log (channel, payload) SELECT '{CHANNEL}', '{PAYLOAD}' "
        f"FROM generate_series(1, {TOGETHER}); COMMIT; END LOOP; END $$"
    )
    seconds, largest, dead = [], 0.0, 0.0
    with (
        Child("durable_readers.py", OURS, dsn, "--every", 0.05) as child,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        assert child.read_message() == "ready"
        for number in range(1, PARTS + 1):
            began = time.monotonic()
            connection.execute(statement.encode())
            report: Any = {"count": 0}
            while report["count"] < number * part:
                report = child.read_message()
                size, rows = connection.execute(SIZE).fetchone() or (0, 0)
                largest, dead = max(largest, float(size)), max(dead, float(rows))
            assert report["count"] == number * part, "something was delivered twice"
            seconds.append(time.monotonic() - began)
    return seconds, largest, dead


def send_at_once(dsn: str, count: int) -> tuple[float, float]:
    """Return the longest time without an entry, in milliseconds, and the rate."""
    empty(dsn)
    with (
        Child("durable_readers.py", OURS, dsn, "--every", 0.05) as child,
        psycopg.connect(dsn) as connection,
    ):
        assert child.read_message() == "ready"
        connection.execute(
            f"INSERT INTO pgnotifier.log (channel, payload) SELECT '{CHANNEL}', '{PAYLOAD}' "
            f"FROM generate_series(1, {count})".encode()
        )
        connection.commit()
        began = time.monotonic()
        gaps, report = [0.0], {"count": 0}
        while report["count"] < count:
            report = child.read_message()
            gaps.append(report["gap"] * 1000)
        return max(gaps), count / (time.monotonic() - began)


if __name__ == "__main__":
    run(__doc__, [benchmark])
