"""Send payloads for `pgnotifier send`: many in one transaction, and no faster than `--rate`."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import psycopg

from pgnotifier._connection.sending_texts import check_text, measure, notify_all
from pgnotifier._connection.session import encoding_of
from pgnotifier._log import publishing
from pgnotifier._log.composing import Composer
from pgnotifier._log.sessions import find_session
from pgnotifier._registry.checks import check_unreserved
from pgnotifier.cli.send.payloads import Line

TOGETHER = 1000
"""How many payloads a transaction has at most."""
TOGETHER_BYTES = 1 << 20
"""How many characters they have at most, unless there is only one payload."""
STEP = 0.1
"""Seconds of payloads that are sent together, with a rate."""


class ChannelSender:
    """Sends payloads on one channel.

    Attributes:
        sent: How many were sent for certain.
        under_way: The payloads of the transaction that hasn't been confirmed.
    """

    def __init__(self, connection: psycopg.Connection[Any], channel: str) -> None:
        """Take a connection in autocommit mode."""
        connection.prepare_threshold = None  # a pooler in transaction mode may not know them
        self._connection = connection
        self._channel = channel
        self._encoding = encoding_of(connection)
        self.sent = 0
        self.under_way: Sequence[Line] = ()

    @property
    def is_uncertain(self) -> bool:
        """Whether what is under way may have been sent, because no answer came."""
        return bool(self.under_way) and self._connection.closed

    def check(self, text: str) -> str:
        """Return a text, or raise PgNotifierError if it can't be sent."""
        return check_text(text, self._encoding)

    def send(self, lines: Sequence[Line]) -> None:
        """Send the lines of one transaction, as `cut` has yielded them."""
        self.under_way = lines
        self._execute([line.text for line in lines])
        self.sent += len(lines)
        self.under_way = ()

    def cut(self, lines: Iterable[Line], most: int) -> Iterator[list[Line]]:
        """Yield the lines of each transaction.

        Args:
            lines: All lines.
            most: How many lines a transaction has at most.
        """
        held: list[Line] = []
        size, known = 0, set[str]()
        for line in lines:
            length = len(line.text)
            is_full = len(held) == most or size + length > TOGETHER_BYTES
            if held and (is_full or self._repeats(line.text, known)):
                yield held
                held, size, known = [], 0, set()
            held.append(line)
            known.add(line.text)
            size += length
        if held:
            yield held

    def _repeats(self, text: str, known: set[str]) -> bool:
        # PostgreSQL would send only one of two equal ones.
        return text in known

    def _execute(self, texts: Sequence[str]) -> None:
        notify_all(self._connection, self._channel, texts)


class LogSender(ChannelSender):
    """Publishes payloads in the durable log."""

    def __init__(
        self, connection: psycopg.Connection[Any], channel: str, key: str | None = None
    ) -> None:
        """Take a connection in autocommit mode.

        Raises:
            ChannelNameError: The channel is an outbox.
        """
        super().__init__(connection, channel)
        self._key = key
        self._session = find_session(connection)
        self._composer = Composer(channel, None, self._session.encoding, None)
        check_unreserved(channel)

    def check(self, text: str) -> str:
        """Return a text, or raise PgNotifierError if it can't be published."""
        measure(text, self._encoding)
        self._composer.check_all([(self._key, text)])
        return text

    def _repeats(self, text: str, known: set[str]) -> bool:  # noqa: ARG002
        return False

    def _execute(self, texts: Sequence[str]) -> None:
        drafts = self._composer.check_all([(self._key, text) for text in texts])
        publishing.insert_in(self._session, self._composer, drafts)


class Pace:
    """Waits, so that a number of payloads is sent per second."""

    def __init__(self, rate: float | None) -> None:
        """Begin now.

        Args:
            rate: How many in a second; None for as many as possible.
        """
        self._rate = rate
        self._began = time.monotonic()
        self._count = 0

    @property
    def most(self) -> int:
        """How many may be sent together."""
        if self._rate is None:
            return TOGETHER
        return max(1, min(TOGETHER, int(self._rate * STEP)))

    def wait(self, count: int) -> None:
        """Wait until the next ones are due.

        Args:
            count: How many are going to be sent.
        """
        if self._rate is not None:
            due = self._began + self._count / self._rate
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
        self._count += count


def send_all(
    sender: ChannelSender,
    blocks: Iterable[Sequence[Line]],
    pace: Pace,
    on_sent: Callable[[int], object] = lambda _: None,
) -> None:
    """Send all lines.

    Args:
        sender: Sends them.
        blocks: The lines. What comes together may be sent together.
        pace: Decides when.
        on_sent: Called with the number of lines after each transaction.
    """
    for block in blocks:
        for lines in sender.cut(block, pace.most):
            pace.wait(len(lines))
            sender.send(lines)
            on_sent(len(lines))
