"""What a notification costs as the work grows: `python benchmarks/growth.py`.

pgnotifier with callbacks in the process, and more and more channels, subscriptions on one
channel, bytes of payload, or connections that notify. For each there are the rate of the whole,
PostgreSQL included, and the CPU time of the listening process alone; and the latter for a bare
drain of psycopg's, where that has something to compare.
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
"""Of payload in one transaction: PostgreSQL keeps them in memory."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Something that grows.

    Attributes:
        what: Its name.
        points: How much of it there is.
        deliveries: How many to make at each point.
        load: What to send, given the point and the deliveries.
        cpu_limits: By point, for the first point's CPU time as a ratio of this one's.
        is_bare: Whether a bare drain has the same to do.
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
