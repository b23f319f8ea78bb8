"""Publish tasks as part of the transactions of SQLAlchemy's sessions, without a block.

    event of a session           what happens to the messages
    after_transaction_create     a transaction or savepoint begins; the context that it begins in,
                                 and each one that the session is used in, takes part in it
    before_commit                what was published is inserted, in one statement
    after_transaction_end        those of a savepoint go to what is around it, or are dropped

They are collected first because a session for asyncio can't execute anything while `delay()` runs.
What is published during the commit, for example by events of the flush, is inserted at once.

SQLAlchemy is only imported once somebody follows a session:
https://docs.sqlalchemy.org/en/20/orm/events.html#session-events
"""

import logging
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

from pgnotifier._log.composing import Draft
from pgnotifier._log.outbox_entries import Outbox
from pgnotifier._runtime.log_records import about, count
from pgnotifier.contrib.celery.outbox_capture import Sink, takes_part
from pgnotifier.errors import ArgumentTypeError, ConfigurationError

logger = logging.getLogger("pgnotifier.celery")


@dataclass(slots=True, eq=False)
class _Level:
    """A transaction or a savepoint of a session, with the messages that were published in it."""

    transaction: "weakref.ref[Any]"  # it holds its session, which may be forgotten
    drafts: list[Draft] = field(default_factory=list)
    is_committed: bool = False
    is_rolled_back: bool = False


class _Transaction:
    """A transaction of a session, with its savepoints. One thread uses it at a time."""

    def __init__(self, follower: "SessionFollower", session: Any, transaction: Any) -> None:
        self.follower = follower
        self.levels = [_Level(weakref.ref(transaction))]
        self.reference = weakref.ref(self)
        self._session = weakref.ref(session)
        self._owner = os.getpid()
        self._commits = 0
        self._finalizer: Any = None

    @property
    def is_open(self) -> bool:
        """Whether tasks can be a part of it. After a flush that has failed, it is over."""
        session = self._session()
        return bool(
            session is not None
            and self.levels
            and session.is_active
            # A forked child has no part in it.
            and self._owner == os.getpid()
        )

    def takes(self, task: str) -> bool:
        """Return whether a task is published in the transactions of these sessions."""
        session = self._session()
        return session is not None and self.follower.takes(session, task)

    def add(self, draft: Draft) -> None:
        """Take an entry."""
        session = self._session()
        if self._finalizer is None and session is not None:
            self._finalizer = weakref.finalize(session, self._report_lost)
            self._finalizer.atexit = False
        self.levels[-1].drafts.append(draft)
        if self._is_ending and session is not None:
            self.insert(session)

    @property
    def _is_ending(self) -> bool:
        """Whether the whole transaction is being committed, and not just a savepoint."""
        return self._commits > 0 and len(self.levels) == 1

    def insert(self, session: Any) -> None:
        """Insert what was collected. An error leaves it here, so that no commit leaves it out."""
        (level,) = self.levels
        if level.drafts:
            self.follower.insert(session, level.drafts)
            level.drafts.clear()

    def begin_commit(self, session: Any) -> None:
        """Insert everything, if the whole transaction is being committed.

        That may be so even while a savepoint is open, which is then committed first.
        """
        self._commits += 1
        if self._is_ending:
            self.insert(session)

    def end(self, session: Any, transaction: Any) -> None:
        """End a transaction or a savepoint."""
        if not self.levels or self.levels[-1].transaction() is not transaction:
            return  # an internal part of SQLAlchemy's
        level = self.levels[-1]
        if len(self.levels) > 1:
            self.levels.pop()
            self._commits = max(0, self._commits - 1)
            if level.is_committed:
                self.levels[-1].drafts += level.drafts
                if self._is_ending:
                    self.insert(session)
            return
        if self._finalizer is not None:
            self._finalizer.detach()
        # Leaving `with Session():` by an exception closes the session, and needs no warning.
        if not (level.is_committed or level.is_rolled_back or sys.exc_info()[0]):
            self._report_lost()
        self.levels = []

    def _report_lost(self) -> None:
        lost = sum(len(level.drafts) for level in self.levels)
        if lost and self._owner == os.getpid():
            logger.warning(
                "not published: %s of the app %r; the session was closed without commit() or "
                "rollback()",
                count(lost, "task"),
                self.follower.app.main,
                extra=about("tasks_dropped", app=self.follower.app.main, count=lost),
            )


_current: ContextVar[tuple["weakref.ref[_Transaction]", ...]] = ContextVar(
    "pgnotifier_outbox_sessions", default=()
)
"""The transactions that this context takes part in, and some that have ended."""


class _Followed(NamedTuple):
    """How the sessions of a class are followed, as `CeleryOutbox.follow` says."""

    bind_arguments: Mapping[str, Any] | None
    exclude: tuple[str, ...]


class SessionFollower:
    """Finds the transaction of a followed session that a task is a part of.

    Attributes:
        app: The app that the tasks belong to.
    """

    def __init__(self, app: Any, log: Outbox) -> None:
        """Follow no session yet."""
        self.app = app
        self._log = log
        self._followed: dict[type, _Followed] = {}
        self._open: weakref.WeakKeyDictionary[Any, _Transaction] = weakref.WeakKeyDictionary()

    def follow(
        self, sessions: Any, bind_arguments: Mapping[str, Any] | None, exclude: tuple[str, ...]
    ) -> "Following":
        """Follow the sessions of a class or factory, as `CeleryOutbox.follow` says."""
        from sqlalchemy import event

        kind = _find_class(sessions)
        for other in self._followed:
            if issubclass(kind, other) or issubclass(other, kind):
                raise ConfigurationError(
                    f"{_show(sessions)} and {other.__qualname__} have sessions in common, which "
                    "this outbox follows already: follow one of them"
                )
        self._followed[kind] = _Followed(bind_arguments, exclude)
        for name, listener in self._listeners().items():
            event.listen(kind, name, listener)
        return Following(lambda: self._unfollow(kind))

    def _unfollow(self, kind: type) -> None:
        from sqlalchemy import event

        concerned = [one for one in self._open.items() if isinstance(one[0], kind)]
        if any(level.drafts for _, transaction in concerned for level in transaction.levels):
            raise ConfigurationError(
                "a session that is followed has an open transaction with tasks: commit it, or "
                "roll it back, before undo()"
            )
        for session, transaction in concerned:  # what is published from now on isn't a part of it
            transaction.levels = []
            del self._open[session]
        if kind not in self._followed:
            return
        del self._followed[kind]
        for name, listener in self._listeners().items():
            event.remove(kind, name, listener)

    def find(self) -> Sink | None:
        """Return the sink of this context's messages; None if no transaction is open in it."""
        held = _current.get()
        if not held:
            return None
        found = [
            one
            for reference in held
            if (one := reference()) is not None and one.follower is self and one.is_open
        ]
        return _Several(found) if len(found) > 1 else found[0] if found else None

    def takes(self, session: Any, task: str) -> bool:
        """Return whether a task is published in the transactions of a session."""
        return takes_part(self.app, task, self._find_followed(session).exclude)

    def insert(self, session: Any, drafts: list[Draft]) -> None:
        """Insert entries in the transaction of a session."""
        given = self._find_followed(session).bind_arguments
        connection = session.connection(bind_arguments=None if given is None else dict(given))
        self._log.insert(connection, drafts)

    def _find_followed(self, session: Any) -> _Followed:
        kind = next(one for one in self._followed if isinstance(session, one))
        return self._followed[kind]

    def _listeners(self) -> Mapping[str, Callable[..., None]]:
        return {
            "after_transaction_create": self._begin,
            "before_commit": self._before_commit,
            "after_commit": self._after_commit,
            "after_rollback": self._after_rollback,
            "after_transaction_end": self._end,
            # The session has to be found in the context that uses it. It may have begun elsewhere.
            "after_begin": self._after_begin,
            "after_attach": self._after_attach,
            "before_flush": self._before_flush,
            "do_orm_execute": self._execute,
        }

    def _begin(self, session: Any, transaction: Any) -> None:
        if transaction.parent is None:
            self._open[session] = _Transaction(self, session, transaction)
        elif transaction.nested and (held := self._open.get(session)):
            held.levels.append(_Level(weakref.ref(transaction)))
        self._enter(session)

    def _end(self, session: Any, transaction: Any) -> None:
        if held := self._open.get(session):
            held.end(session, transaction)
            if not held.levels:
                del self._open[session]

    def _before_commit(self, session: Any) -> None:
        if held := self._open.get(session):
            held.begin_commit(session)

    def _after_commit(self, session: Any) -> None:
        if held := self._open.get(session):
            held.levels[-1].is_committed = True

    def _after_rollback(self, session: Any) -> None:
        if held := self._open.get(session):
            held.levels[-1].is_rolled_back = True

    def _after_begin(self, session: Any, _transaction: Any, _connection: Any) -> None:
        self._enter(session)

    def _after_attach(self, session: Any, _instance: Any) -> None:
        self._enter(session)

    def _before_flush(self, session: Any, _context: Any, _instances: Any) -> None:
        self._enter(session)

    def _execute(self, state: Any) -> None:
        self._enter(state.session)

    def _enter(self, session: Any) -> None:
        """Have this context take part in the session's transaction, if there is one."""
        if (held := self._open.get(session)) is None:
            return
        known = _current.get()
        if held.reference not in known:
            others = [one for one in known if (other := one()) is not None and other.levels]
            _current.set((*others, held.reference))


class Following(AbstractContextManager[None]):
    """What `CeleryOutbox.follow` returns. As a context manager, it ends with its block."""

    def __init__(self, undo: Callable[[], None]) -> None:
        """Keep the function that ends it."""
        self._undo = undo

    def undo(self) -> None:
        """Stop following these sessions.

        Raises:
            ConfigurationError: One of them has an open transaction with tasks.
        """
        self._undo()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Call `undo`."""
        self.undo()


class _Several:
    """Refuses tasks where several transactions are open: a guess could lose them."""

    def __init__(self, transactions: list[_Transaction]) -> None:
        self._transactions = transactions

    def takes(self, task: str) -> bool:
        """Refuse a task that is published in one of them.

        Raises:
            ConfigurationError: The task is published in one of them.
        """
        if not any(one.takes(task) for one in self._transactions):
            return False
        raise ConfigurationError(
            f"several sessions that the outbox follows have an open transaction here, and {task!r} "
            "could be a part of each: publish it in `with outbox(session):`, follow only the "
            "sessions that write, or end the other transactions"
        )

    def add(self, draft: Draft) -> None:
        """Do nothing: `takes` has refused everything."""


def _find_class(sessions: Any) -> type:
    """Return the class of the sessions to follow.

    The events of a session for asyncio are those of the synchronous session in it. A factory of
    such sessions gets a class of its own for these, so that others aren't followed.

    Raises:
        ArgumentTypeError: It is neither a class nor a factory of sessions.
    """
    from sqlalchemy.orm import Session

    factory = getattr(sessions, "session_factory", sessions)  # of scoped sessions
    kind = factory if isinstance(factory, type) else getattr(factory, "class_", None)
    if isinstance(kind, type) and issubclass(kind, Session):
        return kind
    inner = getattr(kind, "sync_session_class", None)
    if not (isinstance(inner, type) and issubclass(inner, Session)):
        raise ArgumentTypeError(
            "follow a class of sessions, a sessionmaker, a scoped_session or their forms for "
            f"asyncio, not {_show(sessions)}"
        )
    if isinstance(factory, type):
        return inner
    if (given := factory.kw.get("sync_session_class")) is not None:
        inner = given
    if not getattr(inner, _OWN, False):
        inner = type(inner.__name__, (inner,), {_OWN: True})
        factory.configure(sync_session_class=inner)
    return inner


_OWN = "_pgnotifier_own"
"""The attribute of a class that was made for one factory."""


def _show(sessions: Any) -> str:
    return getattr(sessions, "__qualname__", type(sessions).__qualname__)
