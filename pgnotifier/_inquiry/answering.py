"""Answering: what a listener does when somebody asks.

The reader only notes that there is a question. A thread of its own makes the answer and sends it,
on a connection of its own, as either may take long: dispatchers are asked about themselves, and
NOTIFY waits for other transactions that notify. Both end soon after the last question. While the
reader pauses, because a buffer is full, the thread looks for questions itself.
"""

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import is_quiet, notify_query
from pgnotifier._inquiry.marks import IS_ASKED
from pgnotifier._inquiry.messages import (
    ANSWERS,
    QUESTION_BYTES,
    Answer,
    Inquiry,
    Order,
    read_question,
)
from pgnotifier._inquiry.report import ListenerReport
from pgnotifier._runtime.log_records import LogThrottle, about
from pgnotifier._runtime.process import renew_in_children

logger = logging.getLogger("pgnotifier.inquiry")

PAUSE = 0.25
"""Seconds between two answers, at least. One answer serves all who have asked since the last."""
LINGER = 15.0
"""Seconds without a question after which the thread and its connection end."""
LOOK = 1.0
"""Seconds between two looks for questions, while the reader pauses."""
MOST_NOTED = 64
"""How many questions are kept until the next answer. The others are answered, and not obeyed."""

_IS_ASKED = b"SELECT " + IS_ASKED
_SENDER = """
SELECT usename FROM pg_catalog.pg_stat_activity
WHERE pid OPERATOR(pg_catalog.=) %s
AND EXTRACT(epoch FROM backend_start)::pg_catalog.text OPERATOR(pg_catalog.=) %s
AND datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
AND pg_catalog.pg_has_role(usesysid, SESSION_USER, 'USAGE')
"""
REFUSED = (
    "only a role that may end the listener's session may do that: its own role, a member of it, or "
    "a superuser; and the listener's role must be allowed to see the asking session"
)
SWITCHED_OFF = "it takes no orders: it was made without remote_commands=True"

Obey = Callable[[Order, str], str | None]
"""Carries an order out for a role; returns why it can't, or None."""


class Answering:
    """Answers questions for one notifier.

    The reader calls `note` and `watch`, any thread `close`; all else belongs to the answering
    thread.

    Attributes:
        id: Names the listener in its answers.
        lock: Guards whether the thread runs, and what is noted.
    """

    def __init__(
        self, parameters: Parameters, describe: Callable[[str], ListenerReport], obey: Obey | None
    ) -> None:
        """Take what is needed for answers; nothing is started.

        Args:
            parameters: Where to connect.
            describe: Returns the report of the listener with the id that it is given.
            obey: Carries an order out; None if no orders are taken.
        """
        self._parameters = parameters
        self._describe = describe
        self._obey = obey
        self._note_refusal = LogThrottle(logger)
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Be as new, in a forked child."""
        self.id = secrets.token_hex(8)
        self.lock = threading.RLock()
        self._noted: list[tuple[bytes, int]] = []
        self._looks = False
        self._between = LOOK
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._news = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._serial = 0

    @property
    def takes_orders(self) -> bool:
        """Whether orders may be carried out."""
        return self._obey is not None

    def note(self, data: bytes, pid: int) -> None:
        """Note a question; its answer follows on another thread.

        Args:
            data: What was sent. An empty one is a question as well.
            pid: The pid of the server process of whoever has sent it.
        """
        if len(data) > QUESTION_BYTES:
            return
        with self.lock:
            if len(self._noted) < MOST_NOTED:
                self._noted.append((data, pid))
            elif len(self._noted) == MOST_NOTED:  # one answer serves all of the others
                self._noted.append((b"", pid))
            self._wake()

    def watch(self, is_paused: bool) -> None:
        """Start looking for questions as the reader pauses, and stop as it reads again.

        Orders aren't seen during a pause.
        """
        with self.lock:
            self._looks = is_paused
            if is_paused:
                self._wake()

    def _wake(self) -> None:
        self._closing.clear()
        if self._thread is None:
            self._start()
        self._news.set()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="pgnotifier-answers", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the next question tries again
            return
        self._thread = thread

    def close(self, timeout: float = 0.0) -> None:
        """End the thread and its connection, as the notifier stops; wait so many seconds."""
        with self.lock:
            self._closing.set()
            self._news.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    # --- the answering thread ---

    def _run(self) -> None:
        try:
            while self._wait():
                self._answer()
        finally:
            self._disconnect()

    def _wait(self) -> bool:
        """Wait for the next question; return False if the thread is to end."""
        until = monotonic() + LINGER
        while True:
            self._news.wait(self._between if self._looks else max(0.0, until - monotonic()))
            with self.lock:
                self._news.clear()
                has_work, looks = bool(self._noted), self._looks
                is_over = monotonic() >= until and not (has_work or looks)
                if self._closing.is_set() or is_over:
                    self._noted.clear()
                    self._thread = None
                    return False
            if has_work or (looks and self._is_asked()):
                return True

    def _is_asked(self) -> bool:
        """Return whether somebody asks; note the question then.

        If the server can't be asked, it is left alone for a while.
        """
        try:
            row = self._connected().execute(_IS_ASKED).fetchone()
            self._between = LOOK
        except Exception:  # noqa: BLE001 - as for answers
            self._between = LINGER
            self._disconnect()
            return False
        if row is None or not row[0]:
            return False
        with self.lock:
            self._noted.append((b"", 0))
        return True

    def _answer(self) -> None:
        with self.lock:
            noted = [*self._noted]
            self._noted.clear()
        begun = monotonic()
        try:
            asked = [(read_question(data) if data else Inquiry(), pid) for data, pid in noted]
            concerned = [(one, pid) for one, pid in asked if one and self._is_for_this(one)]
            if not concerned:
                return
            outcomes = {one.id: self._carry_out(one, pid) for one, pid in concerned if one.order}
            answer = Answer(self._describe(self.id), outcomes)
            self._serial += 1
            parts = answer.encode(self._serial)
            query = b";".join(notify_query(ANSWERS, part) for part in parts)
            self._connected().execute(query)
        except Exception as exc:  # noqa: BLE001 - nothing that concerns answers may end anything
            logger.info(
                "a question about this listener couldn't be answered: %s",
                exc,
                extra=about("unanswered", error=type(exc).__name__),
            )
            self._disconnect()
        # More questions may come meanwhile: the next answer is for all of them.
        self._closing.wait(max(0.0, begun + PAUSE - monotonic()))

    def _is_for_this(self, question: Inquiry) -> bool:
        return question.order is None or question.order.listener == self.id

    def _carry_out(self, question: Inquiry, pid: int) -> str | None:
        """Carry an order out; return why it can't be, or None."""
        if self._obey is None or question.order is None:
            return SWITCHED_OFF
        row = self._connected().execute(_SENDER, (pid, question.session)).fetchone()
        if row is None:
            self._note_refusal(
                "an order to %s channel %r was refused: the session with pid %d may not give it",
                question.order.verb,
                question.order.channel,
                pid,
                extra=about("order_refused", channel=question.order.channel, pid=pid),
            )
            return REFUSED
        return self._obey(question.order, row[0])

    def _connected(self) -> psycopg.Connection[Any]:
        known = self._connection
        if known is not None and (known.closed or not is_quiet(known)):
            self._disconnect()
        if self._connection is None:
            self._connection = self._parameters.connect()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
