"""Measure what Django's signals add to a notification: `python benchmarks/django_signals.py`.

Compares a `Channel` with one receiver to a callback of pgnotifier's InlineDispatcher, in turns.
Both are called in the listening process, 100,000 times, for notifications that another process
sends in one transaction.
"""

from commandline import Settings, run
from names import OURS, SIGNAL
from receivers import measure
from results import Limit, Row, Section
from rounds import take_turns
from sending import Load
from servers import Servers

COUNT = 100_000
MOST = Limit(15.0, at_most=True)


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the two, in time for each notification."""
    load = Load(settings.count(COUNT), nested=True)
    took = take_turns(
        [OURS, SIGNAL],
        settings.rounds,
        lambda name: 1e6 / measure(name, servers.dsn, load).rate,
    )
    added = [theirs - ours for ours, theirs in zip(took[OURS], took[SIGNAL], strict=True)]
    rows = [Row(name, figures) for name, figures in took.items()]
    rows.append(Row("a signal adds", added, limit=MOST))
    return [Section("signals of Django", "microseconds a notification", rows=rows)]


if __name__ == "__main__":
    run(__doc__, [benchmark])
