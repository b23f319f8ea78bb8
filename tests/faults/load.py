"""Load in which every notification is accounted for: a sender, and a ledger of deliveries."""

import itertools
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from .waiting import eventually


@dataclass(slots=True)
class Sent:
    """A notification: committed for certain if `ended` is set, possibly committed otherwise."""

    number: int
    channel: str
    begun: datetime
    ended: datetime | None = None


class Sender:
    """Sends numbered payloads to several channels in turn, and reconnects after an outage."""

    def __init__(self, dsn, channels, rate=1000):
        self.sent = []
        self._dsn = dsn
        self._channels = channels
        self._pause = 1 / rate
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sender")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Stop sending."""
        self._ending.set()
        self._thread.join()

    @property
    def committed(self):
        """How many were committed for certain."""
        return sum(1 for one in self.sent if one.ended)

    def wait_for(self, count):
        """Wait until `count` more have been committed."""
        goal = self.committed + count
        eventually(lambda: self.committed >= goal, timeout=120)

    def _run(self):
        while not self._ending.is_set():
            try:
                with psycopg.connect(
                    self._dsn, autocommit=True, application_name="sender", connect_timeout=2
                ) as connection:
                    self._send(connection)
            except psycopg.OperationalError:
                self._ending.wait(0.02)

    def _send(self, connection):
        due = time.monotonic()
        while not self._ending.is_set():
            number = len(self.sent)
            one = Sent(number, self._channels[number % len(self._channels)], datetime.now(UTC))
            self.sent.append(one)
            connection.execute("SELECT pg_notify(%s, %s)", (one.channel, str(number)))
            one.ended = datetime.now(UTC)
            due = max(due + self._pause, time.monotonic() - 0.1)
            self._ending.wait(max(0.0, due - time.monotonic()))


class Ledger:
    """Records what was delivered and which gaps were reported."""

    def __init__(self):
        self.delivered = []
        self.gaps = []

    def callback(self, _id, channel, payload, _pid):
        """Record a delivery."""
        self.delivered.append((payload, channel))

    def settle(self, sender, notifier, timeout=60.0):
        """Stop the sender, and wait until all gaps and a last notification have arrived."""
        sender.stop()
        eventually(lambda: notifier.status().state == "listening", timeout)
        eventually(lambda: len(self.gaps) == notifier.status().gaps, timeout)
        with psycopg.connect(sender._dsn, autocommit=True, application_name="sender") as one:
            one.execute("SELECT pg_notify(%s, '-1')", (sender._channels[0],))
        eventually(lambda: self.delivered and self.delivered[-1][0] == -1, timeout)
        self.delivered.pop()

    def check(self, sent, channels):
        """Check that all were delivered once and in order, except for those missed in a gap.

        Returns how many were missed.
        """
        numbers = [number for number, _ in self.delivered]
        assert all(a < b for a, b in itertools.pairwise(numbers)), "order, or doubles"
        assert all(sent[number].channel == channel for number, channel in self.delivered)
        for gap in self.gaps:
            assert gap.since.utcoffset() is not None
            assert gap.since < gap.until
            assert gap.channels == frozenset(channels)
            assert gap.reason
        came = set(numbers)
        missing = [one for one in sent if one.ended and one.number not in came]
        unexplained = [one for one in missing if not any(_within(one, gap) for gap in self.gaps)]
        assert not unexplained, f"{len(unexplained)} unexplained of {len(missing)} missing"
        return len(missing)


def _within(one, gap):
    """Return whether the commit, at some time between `begun` and `ended`, may lie in the gap."""
    return one.ended >= gap.since and one.begun <= gap.until
