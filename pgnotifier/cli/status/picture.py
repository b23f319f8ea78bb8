"""A picture of a database: its listeners, and its durable log, at one moment."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import psycopg

from pgnotifier import durable
from pgnotifier._connection.parameters import Parameters
from pgnotifier._inquiry.asking import Inquirer
from pgnotifier._inquiry.report import ListenerReport, Survey
from pgnotifier._log.outbox_queries import outboxes
from pgnotifier._log.outbox_values import OutboxState
from pgnotifier.errors import (
    ConnectionFailedError,
    LogNotInstalledError,
    PgNotifierError,
    in_one_line,
)
from pgnotifier.status import LogState, Position

QUEUE_LIMIT = 0.5
"""How full PostgreSQL's queue of notifications may be."""


@dataclass(frozen=True, slots=True)
class LogPicture:
    """The durable log of a database.

    Attributes:
        state: Its size, and what holds its space back.
        positions: The durable subscriptions, whether or not anybody reads them.
        outboxes: The outboxes.
    """

    state: LogState
    positions: tuple[Position, ...]
    outboxes: tuple[OutboxState, ...]

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return {
            **self.state.to_dict(),
            "positions": [one.to_dict() for one in self.positions],
            "outboxes": [one.to_dict() for one in self.outboxes],
        }


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known about the listeners of a database and its log.

    Attributes:
        survey: The listeners.
        log: The durable log; None if it isn't installed, or can't be read.
        unread: Why the log can't be read, if it is there.
        problems: What is wrong, in one line each, for all channels.
    """

    survey: Survey
    log: LogPicture | None = None
    unread: str | None = None
    problems: tuple[str, ...] = ()

    def choose(self, channels: Collection[str]) -> "Picture":
        """Return the same with some channels only."""
        reports = tuple(
            replace(
                one,
                channels=tuple(each for each in one.channels if each.name in channels),
                subscriptions=tuple(each for each in one.subscriptions if each.channel in channels),
                durable=tuple(each for each in one.durable if each.channel in channels),
            )
            for one in self.survey.reports
        )
        log = self.log
        if log is not None:
            known = tuple(one for one in log.positions if one.channel in channels)
            log = replace(log, positions=known)
        return replace(self, survey=replace(self.survey, reports=reports), log=log)

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        survey = self.survey.to_dict()
        return {
            "listeners": survey["reports"],
            "silent": survey["silent"],
            "log": self.log and self.log.to_dict(),
            "problems": [*self.problems, *([self.unread] if self.unread else [])],
        }


class LogReader:
    """Reads the state of the log, on a connection that it keeps."""

    def __init__(self, parameters: Parameters) -> None:
        """Take where to connect."""
        self._parameters = parameters
        self._connection: psycopg.Connection[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self._close()

    def read(self) -> LogPicture | None:
        """Return the log; None if it isn't installed.

        Raises:
            LogRefusedError: This role may not read it.
            ConnectionFailedError: There is no connection.
        """
        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._parameters.connect()
            durable.check(self._connection)
            return LogPicture(
                durable.log_state(self._connection),
                tuple(durable.positions(self._connection)),
                tuple(outboxes(self._connection)),
            )
        except LogNotInstalledError:
            return None
        except psycopg.Error as exc:
            self._close()
            raise ConnectionFailedError(f"the log can't be read: {in_one_line(exc)}") from exc

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


def take_picture(inquirer: Inquirer, reader: LogReader, timeout: float) -> Picture:
    """Ask the listeners, and read the log.

    Args:
        inquirer: Asks the listeners.
        reader: Reads the log.
        timeout: Seconds to wait for answers, at most.

    Raises:
        ConnectionFailedError: There is no connection.
        ListenRefusedError: The server is a hot standby.
        NotListeningError: There is a pooler in between, and answers don't arrive.
    """
    survey = inquirer.survey(timeout)
    log, unread = None, None
    try:
        log = reader.read()
    except ConnectionFailedError:
        raise
    except PgNotifierError as exc:
        unread = str(exc)
    return Picture(survey, log, unread, tuple(find_problems(survey, log)))


def find_problems(survey: Survey, log: LogPicture | None) -> Iterator[str]:
    """Yield what is wrong, in one line each."""
    if not any(one.state == "listening" for one in survey.reports):
        yield "nobody listens" + (", or listeners don't answer" if survey.silent else "")
    for silent in survey.silent:
        at = f" from {silent.address}" if silent.address else ""
        yield (
            f"the listener of session {silent.backend_pid}{at} (role {silent.role or '?'}) doesn't "
            "answer: it hangs, is slow, or can't connect to answer"
        )
    for one in survey.reports:
        for problem in _find_problems_of(one):
            yield f"{name_listener(one)}: {problem}"
    if log is not None and log.state.is_full:
        yield "the durable log is full: nothing can be published"


def _find_problems_of(one: ListenerReport) -> Iterator[str]:
    if one.state not in ("listening", "standby"):
        yield f"{one.state}: {one.why}" if one.why else one.state
    elif one.why:
        yield one.why
    for each in one.dispatchers:
        if each.retrying:
            yield f"{each.name} can't deliver, and tries again: {each.why}"
    for sub in one.durable:
        if sub.why:
            yield f"durable subscription {sub.id!r} on {sub.channel!r} isn't read: {sub.why}"
        elif sub.held_since:
            yield f"an entry that fails holds up {sub.id!r} on {sub.channel!r}"
    if one.queue_usage is not None and one.queue_usage >= QUEUE_LIMIT:
        yield f"PostgreSQL's queue of notifications is {one.queue_usage:.0%} full"


def name_listener(one: ListenerReport) -> str:
    """Return the name of a listener: the machine and the process."""
    return f"{one.host} pid {one.pid}"
