"""Measure what tasks and jobs for several queues cost: `python benchmarks/queues.py`.

There are as many channels as queues, and their notifications take turns. The CPU time of the
process that listens and enqueues is compared. Another process sends all notifications in one
transaction.
"""

import functools

from children import Child
from commandline import Settings, run
from redis import Redis
from results import Limit, Row, Section
from rounds import divide, take_turns
from sending import Load, send
from servers import Servers

COUNT = 40_000
QUEUES = (1, 2, 8)
MOST = Limit(1.5, at_most=True)


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare numbers of queues."""
    count = settings.count(COUNT)
    sections = []
    for title, kind in (("tasks for queues in Redis", "celery"), ("RQ jobs for queues", "rq")):
        cpu = take_turns(
            QUEUES, settings.rounds, functools.partial(_measure_one, servers, kind, count)
        )
        rows = [Row("1 queue", cpu[1])]
        rows += [
            Row(f"{queues} queues", cpu[queues], divide(cpu[queues], cpu[1]), MOST)
            for queues in QUEUES[1:]
        ]
        sections.append(Section(title, "CPU microseconds each", "each / 1 queue", rows))
    return sections


def _measure_one(servers: Servers, kind: str, count: int, queues: int) -> float:
    return measure(kind, servers.dsn, servers.redis_url, Load(count, channels=queues))


def measure(kind: str, dsn: str, url: str, load: Load, tracing: str | None = None) -> float:
    """Return the CPU time of one listener, in microseconds for each notification.

    Args:
        kind: `celery` or `rq`.
        dsn: The database.
        url: The broker, in Redis. It is flushed.
        load: What to send. Each channel has a queue.
        tracing: The tracing library, if any.
    """
    options = () if tracing is None else ("--tracing", tracing)
    env = {"BENCH_DSN": dsn, "BENCH_BROKER": url}
    with Redis.from_url(url) as connection:
        with Child("queuers.py", kind, load.channels, load.count, *options, env=env) as child:
            assert child.read_message() == "ready"
            send(dsn, load)
            result = child.read_message()
            prefix = "rq:queue:" if kind == "rq" else ""
            found = sum(connection.llen(f"{prefix}bench{n}") for n in range(load.channels))
        connection.flushdb()
    assert found == load.count, f"{kind}: {found} in the queues, of {load.count} notifications"
    return 1e6 * float(result["cpu"]) / load.count


if __name__ == "__main__":
    run(__doc__, [benchmark])
