"""Measure what triggers cost an UPDATE of 100,000 rows: `python benchmarks/row_triggers.py`.

The CPU time of the server's process is compared with that of the same UPDATE without a trigger.

    per statement              one notification with the count and the range of the keys
    per statement, durable     an entry of the log with all keys
    per statement, some columns
                               the same as the first, for updates that change one column
    per row                    a notification for each row
"""

import os
from pathlib import Path

import psycopg
from commandline import Settings, run
from durable_queues import install
from results import Limit, Row, Section
from rounds import divide, take_turns
from servers import Servers

from pgnotifier import triggers
from pgnotifier.triggers import Event, Options, Trigger

ROWS = 100_000
BARE = "without a trigger"
STATEMENT = "per statement"
UPDATE: list[Event] = ["update"]
TRIGGERS: dict[str, Options | None] = {
    BARE: None,
    STATEMENT: {"on": UPDATE, "per": "statement"},
    "per statement, durable": {"on": UPDATE, "per": "statement", "durable": True},
    "per statement, some columns": {"on": UPDATE, "per": "statement", "columns": ["status"]},
    "per row": {"on": UPDATE, "per": "row"},
}
CREATE = """
DROP TABLE IF EXISTS orders;
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer bigint, status text, amount numeric, note text, at timestamptz
)
"""
FILL = """
INSERT INTO orders
SELECT n, n % 1000, 'new', 12.50, repeat('x', 60), now() FROM generate_series(1, {}) AS n
"""


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the CPU times."""
    install(servers.dsn)
    count = settings.count(ROWS)
    with psycopg.connect(servers.dsn, autocommit=True) as connection:

        def update(name: str) -> float:
            """Return how many milliseconds the server works on the UPDATE."""
            connection.execute(CREATE)
            connection.execute(FILL.format(count).encode())
            connection.execute("VACUUM ANALYZE orders")
            options = TRIGGERS[name]
            if options is not None:
                triggers.create(connection, Trigger("orders", "orders", **options))
            began = cpu_time(connection)
            connection.execute("UPDATE orders SET status = 'paid'")
            spent = cpu_time(connection) - began
            connection.execute("DROP TABLE orders")
            triggers.drop_orphans(connection)
            return 1000 * spent

        found = take_turns([*TRIGGERS], settings.rounds, update)
    section = Section(f"an UPDATE of {count:,} rows", "ms of CPU", f"each / {BARE}")
    for name, figures in found.items():
        limit = Limit(1.3, at_most=True) if name == STATEMENT and not settings.quick else None
        ratios = () if name == BARE else divide(figures, found[BARE])
        section.rows.append(Row(name, figures, ratios, limit))
    return [section]


def cpu_time(connection: psycopg.Connection) -> float:
    """Return the seconds of CPU that a session's process has used."""
    stat = Path(f"/proc/{connection.info.backend_pid}/schedstat")
    if stat.exists():  # in nanoseconds
        return int(stat.read_text().split()[0]) / 1e9
    fields = (
        Path(f"/proc/{connection.info.backend_pid}/stat").read_text().rpartition(")")[2].split()
    )
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    run(__doc__, [benchmark])
