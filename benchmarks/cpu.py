"""Measure the CPU time of the listening process for each notification: `python benchmarks/cpu.py`.

Compares pgnotifier's InlineDispatcher with the minimum: psycopg's `consume_input()` and
`notifies()` in a loop, and `json.loads`. Each runs in its own process. Its user and system time are
added up, from when it is listening to the last callback.

Payloads are dicts with numbers, a list and a text. They are all sent in one transaction, or each in
its own transaction, as applications do, from connections that do nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from commandline import Settings, run
from names import BARE, OURS
from receivers import measure
from results import Limit, Row, Section
from rounds import divide, take_turns
from sending import Load
from servers import Servers

MORE = 3
"""How many times as many rounds as usual: these ratios are near their limits, and each round's may
be a sixth above or below the median."""
MOST_BYTES = 150_000_000
"""Bytes of payload in one transaction. PostgreSQL keeps them in memory."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case: what is sent, and how.

    Attributes:
        name: Its name in the table.
        count: How many notifications to send.
        size: The size of each payload, in bytes.
        limit: The limit of pgnotifier's CPU time, as a ratio to that of a bare drain.
        connections: How many connections send, each notification in its own transaction. 0: one
            connection sends everything in one transaction.
        clients: Whether clients send a query for each; otherwise a loop in the server sends them.
    """

    name: str
    count: int
    size: int
    limit: float
    connections: int = 0
    clients: bool = False


CASES: Sequence[Case] = (
    Case("75 bytes", 100_000, 75, 1.0),
    Case("1,000 bytes", 100_000, 1000, 1.0),
    Case("7,900 bytes", MOST_BYTES // 7900, 7900, 1.1),
    Case("75 bytes, a commit each", 20_000, 75, 1.3, connections=1),
    Case("75 bytes, a commit each, from four", 20_000, 75, 1.3, connections=4),
    Case("75 bytes, a commit each, by a client", 20_000, 75, 1.3, connections=1, clients=True),
    Case("75 bytes, a commit each, by four clients", 20_000, 75, 1.3, connections=4, clients=True),
)


def benchmark(servers: Servers, settings: Settings) -> list[Section]:
    """Compare the CPU time of both in each case."""

    def receive(one: tuple[Case, str]) -> float:
        case, name = one
        load = Load(
            settings.count(case.count),
            nested=True,
            size=case.size,
            connections=case.connections,
            clients=case.clients,
        )
        return measure(name, servers.dsn, load).cpu

    turns = [(case, name) for case in CASES for name in (OURS, BARE)]
    rounds = settings.rounds if settings.quick else MORE * settings.rounds
    found = take_turns(turns, rounds, receive)
    section = Section(
        "CPU of the listening process", "microseconds", f"{OURS} / {BARE}, less is better"
    )
    for case in CASES:
        ours, bare = found[case, OURS], found[case, BARE]
        limit = Limit(case.limit, at_most=True)
        section.rows.append(Row(f"{case.name}: {BARE}", bare))
        section.rows.append(Row(f"{case.name}: {OURS}", ours, divide(ours, bare), limit))
    return [section]


if __name__ == "__main__":
    run(__doc__, [benchmark])
