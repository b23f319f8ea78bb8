"""Measure how fast notifications become RQ jobs: `python benchmarks/jobs.py`.

With Valkey as Redis. No worker executes the jobs.

    pgnotifier            a Notifier with an RQDispatcher, one callback
    queue.enqueue loop    `for n in connection.notifies(): queue.enqueue(f, json.loads(n.payload))`
    enqueue_many loop     up to 500 that have arrived go to `queue.enqueue_many` together

Another process sends all notifications in one transaction. The time is measured from the end of
that COMMIT until the last job has been enqueued.
"""

from dataclasses import replace

from children import Child
from commandline import Settings, run
from names import ENQUEUE, ENQUEUE_MANY, OURS
from redis import Redis
from results import Limit, Section, compare
from rounds import take_turns
from rq import Queue
from sending import Load, name_channels, send
from servers import Servers

COUNT = 50_000
FEWER = 10
"""The loops get the count divided by this, because all would take minutes."""
LIMITS = {ENQUEUE: Limit(4.0)}


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the enqueuers."""
    load = Load(settings.count(COUNT))
    fewer = replace(load, count=max(1, load.count // FEWER))
    loads = {OURS: load, ENQUEUE: fewer, ENQUEUE_MANY: fewer}
    rates = take_turns(
        [*loads],
        settings.rounds,
        lambda name: measure(name, servers.dsn, servers.redis_url, loads[name]),
    )
    return [compare("RQ jobs in Redis", "a second", rates, OURS, LIMITS)]


def measure(name: str, dsn: str, url: str, load: Load) -> float:
    """Return the rate of one enqueuer, in jobs per second.

    Args:
        name: Its name.
        dsn: The database.
        url: The broker. It is flushed.
        load: What to send.
    """
    (channel,) = name_channels(1)
    env = {"BENCH_DSN": dsn, "BENCH_BROKER": url, "BENCH_CHANNEL": channel}
    with Redis.from_url(url) as connection:
        with Child("enqueuers.py", name, load.count, env=env) as child:
            assert child.read_message() == "ready"
            began = send(dsn, load)
            result = child.read_message()
            found = Queue("bench", connection=connection).count
        connection.flushdb()
    assert found == load.count, f"{name}: {found} jobs of {load.count} notifications"
    return load.count / (float(result["finished_at"]) - began)


if __name__ == "__main__":
    run(__doc__, [benchmark])
