"""Measure what a notification costs as the work grows: `python benchmarks/growth.py`.

pgnotifier calls callbacks in the process, with a growing number of channels, subscriptions on one
channel, bytes of payload, or connections that notify. For each, this measures the total rate,
PostgreSQL included, and the CPU time of the listening process; and also the CPU time of a bare
drain with psycopg where that is comparable.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from commandline import Settings, run
from names import BARE, OURS
from receivers import measure
from results import Limit, Row, Section
from rounds import divide, take_turns
from sending import Load
from servers import Servers

MOST_BYTES = 150_000_000
"""Bytes of payload in one transaction. PostgreSQL keeps them in memory."""


@dataclass(frozen=True, slots=True)
class Growth:
    """A number that grows.

    Attributes:
        what: Its name.
        points: Its values.
        deliveries: How many deliveries to make at each point.
        load: Returns what to send, given the point and the deliveries.
        cpu_limits: By point, the limit of the first point's CPU time as a ratio to this one's.
        is_bare: Whether a bare drain can be compared.
    """

    what: str
    points: Sequence[int]
    deliveries: int
    load: Callable[[int, int], Load]
    cpu_limits: Mapping[int, Limit] = field(default_factory=dict)
    is_bare: bool = True


GROWTHS = (
    Growth(
        "channels",
        (1, 10, 100, 1000, 10_000),
        50_000,
        lambda point, count: Load(count, channels=point),
        {1000: Limit(0.8)},
    ),
    Growth(
        "subscriptions",
        (1, 10, 100, 1000),
        200_000,
        lambda point, count: Load(max(count // 200, count // point), subscriptions=point),
        is_bare=False,
    ),
    Growth(
        "bytes of payload",
        (10, 100, 1000, 7999),
        100_000,
        lambda point, count: Load(min(count, MOST_BYTES // point), size=point),
    ),
    Growth(
        "notifying connections",
        (1, 4, 16, 64),
        20_000,
        lambda point, count: Load(count, connections=point),
    ),
)


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Measure all curves."""
    return [section for growth in GROWTHS for section in measure_one(growth, servers, settings)]


def measure_one(growth: Growth, servers: Servers, settings: Settings) -> list[Section]:
    """Measure the curves of one growth."""
    count = settings.count(growth.deliveries)
    points = growth.points[:2] if settings.quick else growth.points
    names = [OURS, BARE] if growth.is_bare else [OURS]
    receipts = take_turns(
        [(name, point) for point in points for name in names],
        settings.rounds,
        lambda one: measure(one[0], servers.dsn, growth.load(one[1], count)),
    )

    rates = {one: [receipt.rate for receipt in some] for one, some in receipts.items()}
    cpu = {one: [receipt.cpu for receipt in some] for one, some in receipts.items()}
    first = (OURS, points[0])
    whole = Section(f"{growth.what}: the whole", "deliveries a second", "each / the first")
    own = Section(f"{growth.what}: own CPU", "microseconds a delivery", "the first / each")
    bare = Section(f"{growth.what}: CPU of a bare drain", own.unit, f"{BARE} / {OURS}")
    for point in points:
        name, ours, theirs = f"{point:,} {growth.what}", (OURS, point), (BARE, point)
        limit = growth.cpu_limits.get(point)
        whole.rows.append(Row(name, rates[ours], divide(rates[ours], rates[first]), at=point))
        own.rows.append(Row(name, cpu[ours], divide(cpu[first], cpu[ours]), limit, point))
        if growth.is_bare:
            bare.rows.append(Row(name, cpu[theirs], divide(cpu[theirs], cpu[ours]), at=point))
    return [whole, own, bare] if growth.is_bare else [whole, own]


if __name__ == "__main__":
    run(__doc__, [benchmark])
