"""Read what is published durably, until the parent ends this process; report now and then.

A payload that is a number is the time at which it was published, by the clock of this machine.
"""

import argparse
import statistics
import threading
import time
from typing import Any

import psycopg
from children import end_with_parent, write_message
from durable_queues import CHANNEL, TAKE
from names import OURS, OUTBOX

from pgnotifier import Notifier

POLL = 0.005
"""Seconds between two looks into an outbox that is empty."""


class Meter:
    """Counts what arrives, and measures how long it took and how long nothing came."""

    def __init__(self, every: float) -> None:
        self.every = every
        self.count = 0
        self._at = 0.0
        self._gap = 0.0
        self._latencies: list[float] = []

    def note(self, payload: Any) -> None:
        """Take one entry."""
        now = time.time()
        if self._at:
            self._gap = max(self._gap, now - self._at)
        self._at = now
        self.count += 1
        if isinstance(payload, float):
            self._latencies.append(now - payload)

    def report(self) -> None:
        """Report the count so far, and the median latency and longest gap since the last report."""
        latencies, self._latencies = self._latencies, []
        gap, self._gap = self._gap, 0.0
        median = statistics.median(latencies) if latencies else None
        write_message({"count": self.count, "latency": median, "gap": gap})


def read_log(dsn: str, meter: Meter) -> None:
    with Notifier(dsn) as notifier:
        notifier.subscribe(
            "bench", CHANNEL, lambda _id, _channel, payload, _pid: meter.note(payload), durable=True
        )
        report(meter)


def read_outbox(dsn: str, meter: Meter) -> None:
    threading.Thread(target=report, args=(meter,), daemon=True).start()
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            rows = connection.execute(TAKE.format(limit=1000).encode()).fetchall()
            for _, payload in sorted(rows):
                meter.note(payload if payload.startswith("{") else float(payload))
            if not rows:
                time.sleep(POLL)


def report(meter: Meter) -> None:
    write_message("ready")
    while True:
        time.sleep(meter.every)
        meter.report()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=[OURS, OUTBOX])
    parser.add_argument("dsn")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two reports")
    given = parser.parse_args()
    end_with_parent()
    (read_log if given.name == OURS else read_outbox)(given.dsn, Meter(given.every))


if __name__ == "__main__":
    main()
