"""Measure how fast 32 writers publish durably: `python benchmarks/durable_publishing.py`.

pgbench is the client of all: 32 connections, each publication a transaction of its own, and the
server waits for the disk (`fsync` is on).

    pgnotifier             an INSERT into the log, which is what `publish()` of Python executes
    pgnotifier.publish()   the function, for other programs
    outbox                 an INSERT into a table that was made by hand
    outbox, NOTIFY each    the same, and `pg_notify` in the same statement
    plain NOTIFY           `pg_notify` alone, which keeps nothing
    pgqueuer, procrastinate, django-pgpubsub
                           what they execute to enqueue a job, triggers included

They are measured without readers, and, the outbox and pgnotifier, with a reader on the same cores
that does nothing with what it reads. The time of the server's processes isn't all: pgbench and the
reader have their share of two cores.
"""

import re
import subprocess
import tempfile
from pathlib import Path

from children import Child
from commandline import Settings, run
from durable_queues import PUBLISH, empty, install, pgbench, pgpubsub_channel
from names import FUNCTION, OURS, OUTBOX, OUTBOX_NOTIFY, PGPUBSUB, PGQUEUER, PLAIN, PROCRASTINATE
from results import Limit, Section, compare
from rounds import take_turns
from servers import Servers

WRITERS = 32
AMOUNT = "--time=3"
QUICK_AMOUNT = "--transactions=10"  # a slow machine may not get to one in a second
QUIET = [OURS, OUTBOX, FUNCTION, OUTBOX_NOTIFY, PLAIN, PGQUEUER, PROCRASTINATE, PGPUBSUB]
READ = [OURS, OUTBOX]


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the rates, without readers and with one."""
    dsn = servers.durable_dsn
    install(dsn)
    amount = QUICK_AMOUNT if settings.quick else AMOUNT

    def write_alone(name: str) -> float:
        empty(dsn)
        return write(dsn, name, amount)

    def write_and_read(name: str) -> float:
        empty(dsn)
        with Child("durable_readers.py", name, dsn) as child:
            assert child.read_message() == "ready"
            return write(dsn, name, amount)

    quiet = take_turns(QUIET, settings.rounds, write_alone)
    read = take_turns(READ, settings.rounds, write_and_read)
    return [
        compare("publishing by 32 writers", "a second", quiet, OURS, {OUTBOX: Limit(0.9)}),
        compare(
            "publishing by 32 writers, with a reader", "a second", read, OURS, {OUTBOX: Limit(0.8)}
        ),
    ]


def write(dsn: str, name: str, amount: str) -> float:
    """Return how many publications a second pgbench makes."""
    with tempfile.TemporaryDirectory(prefix="pgnotifier-bench-") as directory:
        script = Path(directory, "script.sql")
        script.write_text(PUBLISH[name].format(pgpubsub=pgpubsub_channel()) + ";\n")
        command = pgbench(dsn, script, WRITERS, amount)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"^tps = ([\d.]+)", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout + done.stderr
    return float(found[1])


if __name__ == "__main__":
    run(__doc__, [benchmark])
