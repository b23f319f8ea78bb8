"""Measure what metrics and spans add to a callback: `python benchmarks/observing.py`.

Callbacks in the process are called without anything, while Prometheus' page is asked for every
second, and with a notifier that OpenTelemetry instruments: while no trace is recorded, one in a
hundred is, and all are (into an exporter that drops them); with Sentry, while one in a hundred is.
The CPU time of the listening process is compared.
"""

from commandline import Settings, run
from names import METRICS, OURS, SENTRY_SOME, SPANS_ALL, SPANS_NONE, SPANS_SOME
from receivers import measure
from results import Limit, Row, Section
from rounds import divide, take_turns
from sending import Load
from servers import Servers

COUNT = 60_000
LIMITS = {name: Limit(1.1, at_most=True) for name in (METRICS, SPANS_NONE)}


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare observed listeners to one without."""
    load = Load(settings.count(COUNT), nested=True)
    names = [OURS, METRICS, SPANS_NONE, SPANS_SOME, SPANS_ALL, SENTRY_SOME]
    cpu = take_turns(names, settings.rounds, lambda name: measure(name, servers.dsn, load).cpu)
    rows = [Row(OURS, cpu[OURS])]
    rows += [Row(one, cpu[one], divide(cpu[one], cpu[OURS]), LIMITS.get(one)) for one in names[1:]]
    return [Section("observed callbacks", "CPU microseconds each", f"each / {OURS}", rows)]


if __name__ == "__main__":
    run(__doc__, [benchmark])
