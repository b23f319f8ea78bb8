"""Leadership: take the lead, show that this listener leads, and end a dead leader's session.

See `leader_lock` for how the lead is held. A leader keeps a *companion*, a second, idle session,
which shows that its machine still runs. PostgreSQL notices within 20 seconds that the client of an
idle session has vanished. For the session that listens, it can take a quarter of an hour: TCP sends
no keepalives while data is in flight, and a session that may pause can't have another timeout.
https://www.kernel.org/doc/html/latest/networking/ip-sysctl.html
"""

import logging
from collections.abc import Iterable
from time import monotonic

from pgnotifier._connection.connecting import Connecting
from pgnotifier._listener.heartbeat import Heartbeat
from pgnotifier._listener.leader_lock import TERMINATE, Standby
from pgnotifier._listener.reader_connection import ReaderConnection
from pgnotifier._runtime.clock import Moment, stretch
from pgnotifier._runtime.log_records import about
from pgnotifier.errors import ListenRefusedError
from pgnotifier.notification import Gap

logger = logging.getLogger("pgnotifier.listener")

POLL = 1.0
"""Seconds between two attempts of a standby to take the lead."""
LOOK = 1.0
"""Seconds between two checks that the companion is still connected."""


class Leadership:
    """A listener's role among those that share a standby name; owned by the reader.

    Attributes:
        view: What this listener knows of the leader.
        poll: Seconds between two attempts to take the lead, and between two signs of a leader.
    """

    def __init__(self, connection: ReaderConnection, heartbeat: Heartbeat, name: str) -> None:
        """Begin without the lead.

        Args:
            connection: The reader's connection, which holds the lead.
            heartbeat: Sends the signs that standbys see.
            name: The standby name.
        """
        self.view = Standby(name, connection.heartbeat, connection.timeout)
        self.poll = POLL
        self._connection = connection
        self._heartbeat = heartbeat
        self._companion: Connecting | None = None
        self._look_at = self._show_at = 0.0

    def acquire(self) -> bool:
        """Ask for the lead; return whether this listener has it.

        Raises:
            ConnectionLostError: The connection was lost, or there was no answer in time.
            ListenRefusedError: The server answered with an error.
        """
        asked_at = Moment.now()
        return self.view.learn(self._connection.ask(self.view.query), asked_at)

    def answer(self) -> None:
        """On a standby, answer if somebody asks questions.

        It doesn't listen to them: every session that listens slows all senders down.
        """
        on_question = self._connection.router.on_question
        if self.view.is_asked and on_question is not None:
            on_question(b"", 0)

    def show_progress(self) -> None:
        """Let standbys see how much has been read, as often as they look.

        From that they know how far back the gap has to reach if one of them takes over.
        """
        if monotonic() >= self._show_at:
            self._show_at = monotonic() + self.poll
            self._heartbeat.show_progress()

    def accompany(self, *, leads: bool) -> None:
        """Keep a companion session while this listener leads, and none otherwise."""
        session = self._connection.session
        # Behind a pooler, a companion would only show that the pooler's machine is there.
        if not leads or session is None or session.is_pooled:
            self.dismiss()
        elif monotonic() >= self._look_at:
            self._look_at = monotonic() + LOOK
            known = self._companion
            if known is None or (known.done and not known.is_quiet):
                self.dismiss()
                parameters, wake = self._connection.parameters, self._connection.wake
                self._companion = Connecting(parameters, wake, self.view.accompany)

    def dismiss(self) -> None:
        """End the companion session, if there is one."""
        known, self._companion = self._companion, None
        if known is not None:
            known.abandon()

    def end_vanished_leader(self) -> None:
        """End the leader's session if its machine has vanished."""
        pid, name = self.view.vanished, self.view.name
        if pid is None:
            return
        logger.warning(
            "the machine of the leader of %r seems to have vanished: ending its session, "
            "process %d",
            name,
            pid,
            extra=about("leader_vanished", standby=name, pid=pid),
        )
        try:
            self._connection.ask(TERMINATE % pid)
        except ListenRefusedError as exc:  # it belongs to another role
            logger.warning(
                "this role may not end it; PostgreSQL will end it some time: %s",
                exc,
                extra=about("leader_stays", standby=name, error=type(exc).__name__),
            )

    def find_gap(self, channels: Iterable[str]) -> Gap | None:
        """Return the gap between another listener's lead and this one's; None if there is none.

        Args:
            channels: What is listened to.
        """
        since = self.view.take_over()
        missed = frozenset(channels)
        if since is None or not missed:
            return None
        return Gap(*stretch(since, Moment.now()), missed, "another listener led before")
