"""Start all parts of a soak, and wait for their states."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier.durable import install
from pgnotifier.testing import PostgresServer, ValkeyServer

from .accounting import Key, Ledger
from .process import ListenerFailedError, ListenerProcess
from .proxy import FaultyProxy
from .senders import Sender, Senders
from .tasks import TaskReader

VOLATILE = ("orders", "payments", 'my "odd" channel', "ümläut")
DURABLE = ("invoices", 'durable "ümläut"')
CHANNELS = (*VOLATILE, *DURABLE)
SETTLE_TIMEOUT = 90.0
"""Seconds. A half-open broker and then a half-open PostgreSQL take about 30."""


@dataclass(slots=True)
class Stage:
    """The running parts.

    Attributes:
        rng: The source of all random choices.
        dsn: A direct connection to the database; the listener connects through `to_postgres`.
        control: Sends what isn't part of the constant load.
        extra: Channels that were added at run time, and not removed since.
    """

    rng: random.Random
    ledger: Ledger
    postgres: PostgresServer
    valkey: ValkeyServer
    dsn: str
    to_postgres: FaultyProxy
    to_valkey: FaultyProxy
    tasks: TaskReader
    listener: ListenerProcess
    senders: Senders
    control: Sender
    extra: set[str] = field(default_factory=set)

    def send(self, channels: Sequence[str], *, expected: bool = True) -> list[Key]:
        """Notify in one transaction, on a new connection. Retry until it succeeds."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while True:
            try:
                with self.control.connect() as connection:
                    return self.control.send(connection, channels, expected=expected)
            except psycopg.Error:  # the server is recovering from the last fault
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def flush(self, channels: Sequence[str]) -> None:
        """Return when everything sent to these channels before was delivered or is lost.

        Notifications are sent, or entries published, to each of them until one is delivered on both
        routes. Whatever was committed before that one can't be delivered any more.

        Raises:
            ListenerFailedError: None was delivered within 90 s.
        """
        open_channels = set(channels)
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while open_channels:
            if time.monotonic() > deadline:
                status = self.listener.ask("status")
                raise ListenerFailedError(f"nothing is delivered on {open_channels}: {status}")
            tried = sorted(open_channels)
            keys = dict(zip(tried, self.send(tried), strict=True))
            wait_for(lambda: all(map(self.ledger.has_come, keys.values())), 2.0)  # noqa: B023
            open_channels = {name for name, key in keys.items() if not self.ledger.has_come(key)}

    def settle(self) -> None:
        """Return when no notification, delivery or gap is pending.

        Raises:
            ListenerFailedError: That took over 90 s.
        """
        self.flush([*CHANNELS, *sorted(self.extra)])
        if not wait_for(self._is_settled, SETTLE_TIMEOUT):
            raise ListenerFailedError(
                f"something is still pending after {SETTLE_TIMEOUT:g} s: "
                f"{self.listener.ask('status')}"
            )

    def _is_settled(self) -> bool:
        status = self.listener.ask("status")
        found = (status["state"], status["waiting"], status["gaps"])
        return found == ("listening", 0, len(self.ledger.gaps))


def wait_for(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait for a condition, with a timeout in seconds; return whether it is met."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def set_up(seed: int, rate: float) -> Iterator[Stage]:
    """Start everything, and yield the stage. Nothing is sent yet."""
    ledger = Ledger(DURABLE)
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer())
        valkey = stack.enter_context(ValkeyServer(persistent=True))
        dsn = postgres.create_database("soak")
        with psycopg.connect(dsn) as connection:
            install(connection)
        where = conninfo_to_dict(dsn)
        socket = Path(str(where["host"])) / f".s.PGSQL.{where['port']}"
        to_postgres = stack.enter_context(FaultyProxy(socket))
        port = int(valkey.url.rpartition(":")[2].partition("/")[0])
        to_valkey = stack.enter_context(FaultyProxy(("127.0.0.1", port)))
        through = make_conninfo(
            dsn,
            host="127.0.0.1",
            port=to_postgres.port,
            connect_timeout=2,
            sslmode="disable",
            gssencmode="disable",
        )
        tasks = stack.enter_context(TaskReader(valkey.url, ledger))
        listener = stack.enter_context(
            ListenerProcess(through, f"redis://127.0.0.1:{to_valkey.port}/0", ledger)
        )
        yield Stage(
            rng=random.Random(seed),
            ledger=ledger,
            postgres=postgres,
            valkey=valkey,
            dsn=dsn,
            to_postgres=to_postgres,
            to_valkey=to_valkey,
            tasks=tasks,
            listener=listener,
            senders=Senders(dsn, ledger, CHANNELS, rate, seed),
            control=Sender(0, dsn, ledger),
        )
