"""Deliver notifications to a callback in the process in several ways.

`measure` runs one of them in its own process: this script.
"""

import argparse
import asyncio
import json
import resource
import select
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from children import Child, end_with_parent, finish, write_message
from names import (
    ASYNCPG,
    BARE,
    EARLIER,
    GENERATOR,
    METRICS,
    OURS,
    PSYCOPG2,
    SENTRY_SOME,
    SIGNAL,
    SPANS_ALL,
    SPANS_NONE,
    SPANS_SOME,
)
from psycopg.conninfo import conninfo_to_dict
from sending import Load, name_channels, send


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result of one receiver.

    Attributes:
        rate: Deliveries a second, from the first to the last.
        cpu: The CPU time of its process for each delivery, in microseconds.
    """

    rate: float
    cpu: float


def measure(name: str, dsn: str, load: Load, earlier: Path | None = None) -> Receipt:
    """Send to one receiver, and check that it got everything.

    Args:
        name: Its name.
        dsn: The database.
        load: What to send.
        earlier: The directory of release 0.0.10, for that receiver.
    """
    env = {"PYTHONPATH": str(earlier)} if name == EARLIER else {}
    key = "order" if load.nested or load.size is None else 0
    given = ("--channels", load.channels, "--subscriptions", load.subscriptions)
    arguments = (name, dsn, load.deliveries, json.dumps(key), *given)
    with Child("receivers.py", *arguments, env=env) as child:
        assert child.read_message() == "ready"
        send(dsn, load)
        result = child.read_message()
    assert result["total"] == load.total, f"{name} lost or doubled something"
    return Receipt(load.deliveries / result["seconds"], result["cpu"] / load.deliveries * 1e6)


# --- in the receiver's process ---


class Callback:
    """The callback of every receiver: counts, adds up, and records the first and last times."""

    def __init__(self, expected: int, key: Any) -> None:
        self._expected = expected
        self._key = key
        self._count = 0
        self._total = 0
        self._cpu_before = 0.0
        self._began_at = 0.0
        self._finished_at = 0.0
        self.finished = threading.Event()

    def __call__(self, _id: object, _channel: str, payload: Any, _pid: int) -> None:  # noqa: D102
        self._count += 1
        self._total += payload[self._key]
        if self._count == 1:
            self._began_at = time.monotonic()
        if self._count == self._expected:
            self._finished_at = time.monotonic()
            self.finished.set()

    def ready(self) -> None:
        """Report to the parent that it can send."""
        self._cpu_before = cpu_time()
        write_message("ready")

    def report(self) -> None:
        """Report the result to the parent."""
        cpu = cpu_time() - self._cpu_before
        seconds = max(self._finished_at - self._began_at, 1e-6)
        write_message({"seconds": seconds, "total": self._total, "cpu": cpu})


def cpu_time() -> float:
    """Return the CPU time that this process has used, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def drain_bare(dsn: str, callback: Callback, channels: int = 1) -> None:
    connection = listen(dsn, channels)
    pgconn = connection.pgconn
    callback.ready()
    while not callback.finished.is_set():
        select.select([pgconn.socket], [], [])
        pgconn.consume_input()
        while arrived := pgconn.notifies():
            channel = arrived.relname.decode()
            callback(0, channel, json.loads(arrived.extra.decode()), arrived.be_pid)


def iterate(dsn: str, callback: Callback) -> None:
    connection = listen(dsn)
    callback.ready()
    for arrived in connection.notifies():
        callback(0, arrived.channel, json.loads(arrived.payload), arrived.pid)
        if callback.finished.is_set():
            return


def listen(dsn: str, channels: int = 1) -> psycopg.Connection:
    connection = psycopg.connect(dsn, autocommit=True)
    for channel in name_channels(channels):
        connection.execute(f"LISTEN {channel}".encode())
    return connection


def await_asyncpg(dsn: str, callback: Callback) -> None:
    import asyncpg

    async def receive() -> None:
        def call(_connection: object, pid: int, channel: str, payload: str) -> None:
            callback(0, channel, json.loads(payload), pid)
            if callback.finished.is_set():
                done.set()

        connect: Any = asyncpg.connect  # has no types
        done = asyncio.Event()
        parts: dict[str, Any] = conninfo_to_dict(dsn)
        parts["database"] = parts.pop("dbname")
        connection = await connect(**parts)
        await connection.add_listener("bench0", call)
        callback.ready()
        await done.wait()

    asyncio.run(receive())


def poll_psycopg2(dsn: str, callback: Callback) -> None:
    import psycopg2

    connection = psycopg2.connect(dsn)
    connection.autocommit = True
    connection.cursor().execute("LISTEN bench0")
    callback.ready()
    while not callback.finished.is_set():
        select.select([connection], [], [])
        connection.poll()
        for arrived in connection.notifies:
            callback(0, arrived.channel, json.loads(arrived.payload), arrived.pid)
        connection.notifies.clear()


def subscribe_earlier(dsn: str, callback: Callback) -> None:
    from pgnotifier import Notifier  # the one that is first on the path

    notifier = Notifier(conninfo_to_dict(dsn))
    notifier.subscribe("bench", "bench0", callback)
    callback.ready()
    callback.finished.wait()


def subscribe(
    dsn: str,
    callback: Callback,
    channels: int = 1,
    subscriptions: int = 1,
    observed: str | None = None,
) -> None:
    from pgnotifier import Notifier

    if observed is None:
        notifier = Notifier(dsn)
    else:
        from observers import OBSERVED

        notifier = OBSERVED[observed](dsn)
    for channel in name_channels(channels):
        for number in range(subscriptions):
            notifier.subscribe(number, channel, callback, autorun=notifier.is_running())
    notifier.start()
    callback.ready()
    callback.finished.wait()


def connect_signal(dsn: str, callback: Callback) -> None:
    import django
    from django.conf import settings

    parts: dict[str, Any] = conninfo_to_dict(dsn)
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": parts.pop("dbname")}
    settings.configure(
        DATABASES={"default": database | {name.upper(): part for name, part in parts.items()}},
        INSTALLED_APPS=["pgnotifier.contrib.django"],
    )
    django.setup()
    from pgnotifier.contrib.django import Channel
    from pgnotifier.contrib.django.notifiers import get_notifier

    channel = Channel("bench0")

    @channel.connect
    def receive(payload: Any, pid: int, **_: Any) -> None:
        callback(0, "bench0", payload, pid)

    get_notifier("default").start()
    callback.ready()
    callback.finished.wait()


COMPETITORS: Mapping[str, Callable[[str, Callback], None]] = {
    BARE: drain_bare,
    GENERATOR: iterate,
    PSYCOPG2: poll_psycopg2,
    ASYNCPG: await_asyncpg,
    EARLIER: subscribe_earlier,
}
OBSERVERS = (METRICS, SPANS_NONE, SPANS_SOME, SPANS_ALL, SENTRY_SOME)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=[OURS, SIGNAL, *COMPETITORS, *OBSERVERS])
    parser.add_argument("dsn")
    parser.add_argument("expected", type=int)
    parser.add_argument("key", type=json.loads)
    parser.add_argument("--channels", type=int)
    parser.add_argument("--subscriptions", type=int)
    given = parser.parse_args()
    end_with_parent()
    callback = Callback(given.expected, given.key)
    if given.name == OURS:
        subscribe(given.dsn, callback, given.channels, given.subscriptions)
    elif given.name in OBSERVERS:
        subscribe(given.dsn, callback, given.channels, given.subscriptions, given.name)
    elif given.name == SIGNAL:
        connect_signal(given.dsn, callback)
    elif given.name == BARE:
        drain_bare(given.dsn, callback, given.channels)
    else:
        COMPETITORS[given.name](given.dsn, callback)
    callback.report()
    finish()


if __name__ == "__main__":
    main()
