"""Generate the load: connections that notify and publish in small transactions, and reconnect."""

import random
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import psycopg

from .accounting import Key, Ledger

CONNECTIONS = 4
SIZES = (1, 1, 1, 2, 5)
"""The possible numbers of notifications in a transaction."""
QUERY = """
SELECT count(CASE WHEN durable THEN pgnotifier.publish(c, p)::text ELSE pg_notify(c, p)::text END)
FROM unnest(%s::text[], %s::text[], %s::boolean[]) AS n (c, p, durable)
"""


class Sender:
    """One sender with a direct connection to the server. It may have its own thread."""

    def __init__(self, number: int, dsn: str, ledger: Ledger) -> None:
        self.number = number
        self.turn = threading.Lock()
        self._dsn = dsn
        self._ledger = ledger

    def connect(self) -> psycopg.Connection:
        """Connect directly, and not through the proxy."""
        return psycopg.connect(
            self._dsn, autocommit=True, connect_timeout=2, application_name="sender"
        )

    def send(
        self, connection: psycopg.Connection, channels: Sequence[str], *, expected: bool = True
    ) -> list[Key]:
        """Notify each of the channels given, or publish to it, in one transaction.

        Raises:
            psycopg.Error: The connection is lost. The transaction may have been committed.
        """
        commit, keys = self._ledger.begin(self.number, channels, expected=expected)
        payloads = [f"[{key.sender},{key.number}]" for key in keys]
        durable = [self._ledger.is_durable(channel) for channel in channels]
        connection.execute(QUERY, (list(channels), payloads, durable))
        commit.ended = time.time()
        return keys


class Senders:
    """All senders, with a total rate. The list of channels can be replaced."""

    def __init__(
        self, dsn: str, ledger: Ledger, channels: Sequence[str], rate: float, seed: int
    ) -> None:
        self._channels = tuple(channels)
        self._rate = rate / CONNECTIONS
        self._senders = [Sender(number, dsn, ledger) for number in range(1, CONNECTIONS + 1)]
        self._seed = seed
        self._ledger = ledger
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[sender], name=f"sender-{at}", daemon=True)
            for at, sender in enumerate(self._senders)
        ]

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that they send to."""
        return self._channels

    def change(self, channels: Sequence[str]) -> None:
        """Send to these channels from now on; return when no transaction for others is running."""
        self._channels = tuple(channels)
        for sender in self._senders:
            with sender.turn:
                pass

    def stop(self) -> None:
        """Stop sending."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _run(self, sender: Sender) -> None:
        rng = random.Random(f"{self._seed} {sender.number}")
        while not self._ending.is_set():
            try:
                with sender.connect() as connection:
                    self._send(sender, connection, rng)
            except psycopg.Error:
                self._ending.wait(0.02)
            except Exception as exc:  # noqa: BLE001 - a soak without load proves nothing
                self._ledger.offend("defect", f"sender: {exc!r}")
                return

    def _send(self, sender: Sender, connection: psycopg.Connection, rng: random.Random) -> None:
        due = time.monotonic()
        while not self._ending.is_set():
            size = rng.choice(SIZES)
            with sender.turn:  # from reading the channels to the end of the COMMIT
                sender.send(connection, rng.choices(self._channels, k=size))
            due = max(due + size / self._rate, time.monotonic() - 0.1)
            self._ending.wait(max(0.0, due - time.monotonic()))
