"""Measure what tracing adds to a task: `python benchmarks/tracing.py`.

A listener makes tasks in Redis without tracing, with Sentry (`traces_sample_rate=1.0`), and with
Celery instrumented by OpenTelemetry (every span is recorded, and exported in batches to an exporter
that drops them). The CPU time of the listening process is compared.
"""

from commandline import Settings, run
from names import OPENTELEMETRY, OURS, SENTRY
from queues import measure
from results import Limit, Row, Section
from rounds import divide, take_turns
from sending import Load
from servers import Servers

COUNT = 40_000
MOST = Limit(3.0, at_most=True)


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare listeners with tracing to one without it."""
    load = Load(settings.count(COUNT))
    cpu = take_turns(
        [None, SENTRY, OPENTELEMETRY],
        settings.rounds,
        lambda name: measure("celery", servers.dsn, servers.redis_url, load, name),
    )
    rows = [Row(OURS, cpu[None])]
    rows += [
        Row(f"with {name}", cpu[name], divide(cpu[name], cpu[None]), MOST)
        for name in (SENTRY, OPENTELEMETRY)
    ]
    return [Section("traced tasks in Redis", "CPU microseconds a task", f"each / {OURS}", rows)]


if __name__ == "__main__":
    run(__doc__, [benchmark])
