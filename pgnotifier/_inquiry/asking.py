"""Asking: send a question to all listeners of a database, and collect their answers."""

import contextlib
import secrets
import selectors
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import Any, Self

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import notify_query
from pgnotifier._inquiry.marks import find_marked, show_asking
from pgnotifier._inquiry.messages import ANSWERS, QUESTIONS, Answer, Assembler, Inquiry, Order
from pgnotifier._inquiry.report import ListenerReport, SilentListener, Survey
from pgnotifier.errors import (
    ConnectionFailedError,
    ListenRefusedError,
    NotListeningError,
    OrderRefusedError,
    PgNotifierError,
    in_one_line,
)

TIMEOUT = 2.5
"""Seconds to wait for answers. A standby looks for questions once a second."""
RETRY = 0.25
"""Seconds between two looks for listeners that have not answered."""
_SESSION = """
SELECT EXTRACT(epoch FROM backend_start)::pg_catalog.text, pid FROM pg_catalog.pg_stat_activity
WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"""
_POOLED = (
    "answers don't arrive, because of a pooler in transaction or statement mode. Connect to "
    "PostgreSQL itself, or to a pool in session mode"
)
_LISTEN, _UNLISTEN = f"LISTEN {ANSWERS}", f"UNLISTEN {ANSWERS}"


def ask(parameters: Parameters, timeout: float = TIMEOUT) -> list[ListenerReport]:
    """Ask all listeners of a database, and return what they say about themselves.

    It returns as soon as all have answered. For questions one after another, and for those that
    don't answer, use an `Inquirer`.

    Args:
        parameters: Where to connect.
        timeout: Seconds to wait for answers, at most.

    Raises:
        ConnectionFailedError: No connection could be made, or it was lost.
        ListenRefusedError: The server refused to listen, as a standby server does.
        NotListeningError: There is a pooler in between, and answers don't arrive.
    """
    with Inquirer(parameters) as inquirer:
        return list(inquirer.survey(timeout).reports)


class Inquirer:
    """Asks listeners again and again, on a connection that it keeps. For one thread at a time.

    It remembers the last answers, so that reports have rates from the second survey on. If the
    connection is lost, the next question makes a new one.
    """

    def __init__(self, parameters: Parameters) -> None:
        """Take where to connect; the first question connects."""
        self._parameters = parameters
        self._connection: psycopg.Connection[Any] | None = None
        self._session = ""
        self._shows_asking = False
        self._before: dict[str, ListenerReport] = {}
        self._arrived: list[tuple[str, bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Listeners then forget about questions within seconds."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def survey(self, timeout: float = TIMEOUT) -> Survey:
        """Ask all listeners; return when all have answered, or the time is over.

        Args:
            timeout: Seconds to wait for answers, at most.

        Raises:
            ConnectionFailedError: No connection could be made, or it was lost.
            ListenRefusedError: The server refused to listen, as a standby server does.
            NotListeningError: There is a pooler in between, and answers don't arrive.
        """
        answers, marked = self._ask(Inquiry(), timeout, None)
        latest = {name: one.report for name, one in answers.items()}
        reports = {name: one.compare(self._before.get(name)) for name, one in latest.items()}
        self._before = latest
        known = {one.backend_pid for one in reports.values()}
        silent = [SilentListener(*row) for row in marked if row[0] not in known]
        return Survey(tuple(sorted(reports.values(), key=_order)), tuple(silent))

    def order(self, order: Order, timeout: float = TIMEOUT) -> None:
        """Have one listener mute or unmute something, and wait until it has.

        Args:
            order: What to do.
            timeout: Seconds to wait for its answer, at most.

        Raises:
            OrderRefusedError: The listener refused, or has not answered in time.
            ConnectionFailedError: No connection could be made, or it was lost.
            ListenRefusedError: The server refused to listen, as a standby server does.
            NotListeningError: There is a pooler in between, and answers don't arrive.
        """
        id = secrets.token_hex(8)  # noqa: A001 - the field's name
        self._connected()
        answers, _ = self._ask(Inquiry(id, self._session, order), timeout, order.listener)
        answer = answers.get(order.listener)
        if answer is None or id not in answer.outcomes:
            raise OrderRefusedError(
                f"listener {order.listener} has not answered in time; standbys take no orders"
            )
        if (why := answer.outcomes[id]) is not None:
            raise OrderRefusedError(f"listener {order.listener} refused: {why}")

    # --- one question ---

    def _ask(
        self, question: Inquiry, timeout: float, only: str | None
    ) -> tuple[dict[str, Answer], list[tuple[Any, ...]]]:
        """Send a question; return the answers by listener, and the sessions of listeners.

        Args:
            question: The question.
            timeout: Seconds to wait for answers, at most.
            only: The listener that alone is to answer; None for all.
        """
        try:
            return self._try_to_ask(question, timeout, only)
        except psycopg.Error as exc:
            self.close()
            raise ConnectionFailedError(
                f"the connection was lost while asking listeners: {in_one_line(exc)}"
            ) from exc

    def _try_to_ask(
        self, question: Inquiry, timeout: float, only: str | None
    ) -> tuple[dict[str, Answer], list[tuple[Any, ...]]]:
        connection = self._connected()
        replies = _Replies(question, only)
        deadline = monotonic() + timeout
        self._listen(connection)
        self._arrived.clear()
        echo = notify_query(ANSWERS, replies.echo)
        connection.execute(notify_query(QUESTIONS, question.encode()) + b";" + echo)
        while True:
            self._shows_asking = self._shows_asking or show_asking(connection)
            replies.marked = find_marked(connection)
            self._collect(replies, min(monotonic() + RETRY, deadline))
            if replies.are_complete or monotonic() >= deadline:
                break
        connection.execute(_UNLISTEN)
        if not replies.has_echo:
            raise NotListeningError(f"{_POOLED} ({self._parameters!r})")
        return replies.answers, replies.marked

    def _collect(self, replies: "_Replies", until: float) -> None:
        """Take what arrives, until the replies are complete or a steady clock shows a time."""
        while True:
            for channel, data in self._take():
                if channel == ANSWERS:
                    replies.take(data)
            if replies.are_complete or monotonic() >= until:
                return
            self._wait(until - monotonic())

    # --- the connection ---

    def _connected(self) -> psycopg.Connection[Any]:
        known = self._connection
        if known is not None and known.closed:
            self.close()
        if self._connection is None:
            self._connect()
        assert self._connection is not None
        return self._connection

    def _connect(self) -> None:
        connection = self._parameters.connect()
        try:
            connection.add_notify_handler(
                lambda one: self._arrived.append((one.channel, one.payload.encode()))
            )
            row = connection.execute(_SESSION).fetchone()
        except psycopg.Error as exc:
            connection.close()
            raise ConnectionFailedError(
                f"can't ask listeners ({self._parameters!r}): {in_one_line(exc)}"
            ) from exc
        start, pid = row if row is not None else ("", None)
        self._session = str(start)
        self._shows_asking = False
        self._connection = connection
        if pid != connection.info.backend_pid:  # poolers make up the one that clients get
            self._check_pooler(connection)

    def _check_pooler(self, connection: psycopg.Connection[Any]) -> None:
        """Check that what another connection sends arrives on this one.

        What it sends itself proves nothing. In transaction mode, its lock would stay with a session
        of the pool for good, and standbys would believe that somebody asks.

        Raises:
            NotListeningError: It doesn't arrive.
        """
        echo = secrets.token_hex(8)
        self._listen(connection)
        try:
            with self._parameters.connect() as second:
                second.execute(notify_query(ANSWERS, echo))
        except (PgNotifierError, psycopg.Error):  # a pool in session mode may have no second one
            return
        deadline = monotonic() + TIMEOUT
        while (ANSWERS, echo.encode()) not in self._take():
            if monotonic() >= deadline:
                connection.execute(_UNLISTEN)
                self.close()
                raise NotListeningError(f"{_POOLED} ({self._parameters!r})")
            self._wait(deadline - monotonic())

    def _listen(self, connection: psycopg.Connection[Any]) -> None:
        """Listen to answers, until they are there: each session that listens slows senders down."""
        try:
            connection.execute(_LISTEN)
        except psycopg.errors.ReadOnlySqlTransaction as exc:
            raise ListenRefusedError(
                f"listeners can't be asked on a hot standby ({self._parameters!r}); connect to "
                f"the primary: {in_one_line(exc)}"
            ) from exc

    def _take(self) -> list[tuple[str, bytes]]:
        """Return what has arrived."""
        connection = self._connected()
        found, self._arrived[:] = [*self._arrived], []
        connection.pgconn.consume_input()
        while (one := connection.pgconn.notifies()) is not None:
            found.append((one.relname.decode("utf-8", "replace"), one.extra))
        return found

    def _wait(self, seconds: float) -> None:
        """Wait until something arrives, for so many seconds at most."""
        if seconds > 0:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connected().fileno(), selectors.EVENT_READ)
                selector.select(seconds)


class _Replies:
    """What has arrived since a question was sent."""

    def __init__(self, question: Inquiry, only: str | None) -> None:
        self.echo = secrets.token_hex(8)
        self.has_echo = False
        self.answers: dict[str, Answer] = {}  # by listener
        self.marked: list[tuple[Any, ...]] = []  # the sessions of listeners
        self._question = question
        self._only = only
        self._asked_at = monotonic()
        self._assembler = Assembler()

    def take(self, data: bytes) -> None:
        """Take a message from the channel for answers, where others get theirs as well."""
        self.has_echo = self.has_echo or data == self.echo.encode()
        answer = self._assembler.take(data)
        if answer is None:
            return
        if self._only is None or self._question.id in answer.outcomes:
            report = replace(answer.report, answered_in=monotonic() - self._asked_at)
            self.answers[report.id] = replace(answer, report=report)

    @property
    def are_complete(self) -> bool:
        """Whether the question's own echo and the answers of all that were asked are there."""
        if self._only is not None:
            return self.has_echo and self._only in self.answers
        known = {one.report.backend_pid for one in self.answers.values()}
        return self.has_echo and all(row[0] in known for row in self.marked)


def _order(report: ListenerReport) -> tuple[str, bool, str, int]:
    return report.standby or "", report.state != "listening", report.host, report.pid
