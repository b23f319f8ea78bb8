"""Measure a listener's memory, idle and after a million: `python benchmarks/memory.py`.

The idle listener has one channel and one subscription. It is compared to a process that has
imported psycopg and listens. Then notifications are sent in lots of 100,000, each after the lot
before was delivered to a callback in the process.
"""

from children import Child
from commandline import Settings, run
from names import IDLE, OURS
from results import Limit, Row, Section
from rounds import divide, take_turns
from sending import Load, send
from servers import Servers

COUNT = 1_000_000
LOTS = 10
GROWTH_LIMIT = Limit(5.0, at_most=True)


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Measure both when idle, and pgnotifier under load."""
    lot = max(1, settings.count(COUNT) // LOTS)
    found = take_turns([OURS, IDLE], settings.rounds, lambda name: measure(name, servers.dsn, lot))
    bare = [idle for (idle,) in found[IDLE]]
    idle, first, last = ([sizes[at] for sizes in found[OURS]] for at in (0, 1, -1))
    memory = Section("memory of a listener", "MB of RSS", f"{OURS} / {IDLE}")
    memory.rows.append(Row(f"{OURS}, idle", idle))
    memory.rows.append(Row(f"{IDLE}, idle", bare, divide(idle, bare)))
    memory.rows.append(Row(f"{OURS}, {lot:,} later", first))
    memory.rows.append(Row(f"{OURS}, {lot * LOTS:,} later", last))
    growth = [after - before for before, after in zip(idle, last, strict=True)]
    memory.rows.append(Row("growth from idle", growth, limit=GROWTH_LIMIT))
    return [memory]


def measure(name: str, dsn: str, lot: int) -> list[float]:
    """Return the sizes of a process: idle, and for pgnotifier also after each lot."""
    with Child("idler.py", name, dsn, lot) as child:
        sizes = [float(child.read_message())]
        for _ in range(LOTS if name == OURS else 0):
            send(dsn, Load(lot))
            sizes.append(float(child.read_message()))
    return sizes


if __name__ == "__main__":
    run(__doc__, [benchmark])
