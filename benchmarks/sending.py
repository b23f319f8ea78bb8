"""Send many notifications from another process, with little load for the machine."""

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
"""The characters of texts in payloads."""
FIRST_PADDED = 10_000_000
"""The first number in padded payloads, so that all numbers have the same number of digits."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent, and to how many subscriptions.

    Attributes:
        count: The number of notifications.
        channels: The number of channels that they are spread over.
        subscriptions: The number of subscriptions on each channel.
        nested: Whether payloads are dicts that contain a list.
        size: The size of payloads, in bytes. Nested ones of at least 68 bytes contain a text.
            Others are lists that begin with a number, of 10 bytes, or at least 13. None: short
            dicts.
        connections: How many connections send at a time, each notification in its own transaction.
            0: one connection sends everything in one transaction.
        clients: Whether a client's query sends each of these, as applications do, rather than a
            loop in the server.
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
        """The number of deliveries."""
        return self.count * self.subscriptions

    @property
    def total(self) -> int:
        """The sum of the numbers in all deliveries."""
        first = 0 if self.size is None else FIRST_PADDED
        return self.subscriptions * (self.count * first + self.count * (self.count + 1) // 2)


def name_channels(count: int) -> list[str]:
    """Return the names of the channels."""
    return [f"bench{number}" for number in range(count)]


def send(dsn: str, load: Load) -> float:
    """Send everything, and return when the last COMMIT had ended, by `time.monotonic()`.

    That is the machine's clock, which is the same in every process.
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
        # The loop runs in the server, so that many connections cost the sender no more than one.
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
    """Return the dict of notification `n`, with a text that pads it to a size in bytes."""
    before, after = '{"order": ', ', "amount": 3, "tags": ["new", "paid"], "note": "%s"}'
    room = size - len(f"{before}{FIRST_PADDED}{after}") + len("%s")
    note = (NOTE * (room // len(NOTE) + 1))[:room]
    return f"'{before}' || {FIRST_PADDED} + n || '{after % note}'"
