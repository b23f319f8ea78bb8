"""The sender: notifications by the hundred thousand, which cost the receiver's machine little."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import psycopg

ORDER = "json_build_object('order', n, 'item', 'tea', 'amount', 3)::text"
NESTED = (
    "json_build_object('order', n, 'item', 'tea', 'amount', 3,"
    " 'tags', json_build_array('new', 'paid'))::text"
)
NOTE = "Please leave it at the door, and ring twice. "
"""What texts in payloads are made of."""
FIRST_PADDED = 10_000_000
"""What numbers in padded payloads are counted from, so that all have as many digits."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent, and to whom.

    Attributes:
        count: Notifications in all.
        channels: Over how many channels they are spread.
        subscriptions: How many subscriptions each channel has.
        nested: Whether payloads, which are dicts, have a list in them.
        size: Of payloads, in bytes. Nested ones, of 68 and more, have a text in them; others are
            lists beginning with a number, of 10 bytes, or 13 and more. None sends short dicts.
        connections: How many connections send at a time, each notification in a transaction
            of its own; 0 has one send everything in one transaction.
        clients: Whether each of these is sent by a query of the client's, as applications do,
            and not by a loop in the server.
    """

    count: int
    channels: int = 1
    subscriptions: int = 1
    nested: bool = False
    size: int | None = None
    connections: int = 0
    clients: bool = False

    @property
    def deliveries(self) -> int:
        """How many calls it makes."""
        return self.count * self.subscriptions

    @property
    def total(self) -> int:
        """The sum of the numbers in all deliveries."""
        first = 0 if self.size is None else FIRST_PADDED
        return self.subscriptions * (self.count * first + self.count * (self.count + 1) // 2)


def name_channels(count: int) -> list[str]:
    """Return the names of the channels that are sent to."""
    return [f"bench{number}" for number in range(count)]


def send(dsn: str, load: Load) -> float:
    """Send, and return when the last COMMIT had ended.

    The clock of `time.monotonic()` is the machine's, the same in every process.
    """
    if load.connections:
        _send_side_by_side(dsn, load)
    else:
        _send_at_once(dsn, load)
    return time.monotonic()


def _send_at_once(dsn: str, load: Load) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            f"SELECT count({_call(load)}) FROM generate_series(1, {load.count}) AS n".encode()
        )


def _send_side_by_side(dsn: str, load: Load) -> None:
    def send_some(connection: psycopg.Connection, first: int) -> None:
        # The loop is the server's: many connections are to cost the sender no more than one.
        connection.execute(
            "DO $$ DECLARE n integer; BEGIN "
            f"FOR n IN {first}..{load.count} BY {load.connections} LOOP "
            f"PERFORM {_call(load)}; COMMIT; END LOOP; END $$".encode()
        )

    def send_from_client(connection: psycopg.Connection, first: int) -> None:
        call = _call(load).replace("%", "%%")
        query = f"SELECT {call} FROM (SELECT %s::int AS n) AS numbered".encode()
        for number in range(first, load.count + 1, load.connections):
            connection.execute(query, (number,))

    with ExitStack() as stack:
        connections = [
            stack.enter_context(psycopg.connect(dsn, autocommit=True))
            for _ in range(load.connections)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(load.connections))
        list(
            pool.map(
                send_from_client if load.clients else send_some,
                connections,
                range(1, load.connections + 1),
            )
        )


def _call(load: Load) -> str:
    """Return the call of pg_notify() for notification `n`."""
    if load.size is None:
        payload = NESTED if load.nested else ORDER
    elif load.nested:
        payload = _fill(load.size)
    elif load.size == 10:
        payload = f"'[' || {FIRST_PADDED} + n || ']'"
    else:
        payload = f"""'[' || {FIRST_PADDED} + n || ',"' || repeat('x', {load.size - 13}) || '"]'"""
    return f"pg_notify('bench' || n % {load.channels}, {payload})"


def _fill(size: int) -> str:
    """Return the dict of notification `n`, with a text that makes it so many bytes long."""
    before, after = '{"order": ', ', "amount": 3, "tags": ["new", "paid"], "note": "%s"}'
    room = size - len(f"{before}{FIRST_PADDED}{after}") + len("%s")
    note = (NOTE * (room // len(NOTE) + 1))[:room]
    return f"'{before}' || {FIRST_PADDED} + n || '{after % note}'"
