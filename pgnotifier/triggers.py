"""Create triggers that notify of changed rows, list them, and drop them.

    from pgnotifier import triggers

    paid = triggers.Trigger("orders", "paid", on=["update"], columns=["status"])
    triggers.create(connection, paid)

The command `pgnotifier trigger`, Alembic's operations and Django's `notify_on` do the same.
"""

import builtins
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

from pgnotifier._log.refusals import find_state
from pgnotifier._log.sessions import Given, Session, find_session
from pgnotifier._triggers import installed, statements
from pgnotifier._triggers.declaration import EVENTS, Declaration, Event, Payload, Per
from pgnotifier._triggers.preparing import ERROR
from pgnotifier._triggers.quoting import quote
from pgnotifier.errors import PgNotifierError, TriggerError, in_one_line

__all__ = [
    "EVENTS",
    "Event",
    "InstalledTrigger",
    "Options",
    "Payload",
    "Per",
    "Trigger",
    "create",
    "drop",
    "drop_orphans",
    "list",
]


@dataclass(frozen=True, slots=True)
class Trigger(Declaration):  # noqa: D101 - the same
    __doc__ = Declaration.__doc__

    def create_sql(self) -> str:
        """Return the statement that creates it, or replaces the one of this name."""
        return statements.create_sql(self)

    def drop_sql(self) -> str:
        """Return the statement that drops it with its function, if it is there."""
        return statements.drop_sql(self)


class Options(TypedDict, total=False):
    """The arguments of `Trigger` that have a default."""

    on: Sequence[Event]
    columns: Sequence[str]
    when: str | None
    payload: Payload
    per: Per
    durable: bool
    context: bool
    key: Sequence[str]
    schema: str | None
    name: str


@dataclass(frozen=True, slots=True)
class InstalledTrigger(installed.Found):  # noqa: D101 - the same
    __doc__ = installed.Found.__doc__

    @property
    def is_orphan(self) -> bool:
        """Whether it is a function that no trigger calls: its table was dropped."""
        return self.table is None

    @property
    def trigger(self) -> Trigger | None:
        """What it was created of; None if Django has made it, or it isn't known."""
        if self.made is None or self.table is None:
            return None
        try:
            return Trigger(**{**self.made, "schema": self.schema, "table": self.table})
        except (TypeError, PgNotifierError):  # of a newer version, or somebody else's
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known of it, as values of JSON's types."""
        made = self.trigger
        return {
            "schema": self.schema,
            "table": self.table,
            "name": self.name,
            "channel": self.channel,
            "on": [*self.on],
            "columns": [*made.columns] if made else None,
            "when": made.when if made else None,
            "payload": made.payload if made else None,
            "per": made.per if made else None,
            "durable": self.durable,
            "context": made.context if made else None,
            "key": [*made.key] if made else None,
            "enabled": self.enabled,
            "made_by": self.made_by,
            "function": self.function,
        }


def create(connection: Given, trigger: Trigger) -> None:
    """Create a trigger in the connection's transaction, or replace the one of its name.

    The table is locked against changes until the transaction ends. A trigger that was disabled
    stays so.

    Args:
        connection: A connection of psycopg, psycopg2 or Django; a Connection or Session of
            SQLAlchemy; or a cursor of any driver.
        trigger: The trigger.

    Raises:
        TriggerError: The server refuses it: there is no such table or column, the role has no
            right to, and so on.
        ArgumentTypeError: The connection is none of these.
    """
    session = find_session(connection)
    with _explained(f"can't create trigger {trigger.name!r} on {trigger.qualified}"):
        session.run(trigger.create_sql())


def drop(connection: Given, trigger: Trigger) -> bool:
    """Drop a trigger with its function, in the connection's transaction.

    Args:
        connection: As for `create`.
        trigger: The trigger. Only its table, its schema and its name count.

    Returns:
        Whether it was there.

    Raises:
        TriggerError: The role has no right to drop it.
        ArgumentTypeError: As for `create`.
    """
    session = find_session(connection)
    before = len(_find(session))
    with _explained(f"can't drop trigger {trigger.name!r} of {trigger.qualified}"):
        session.run(trigger.drop_sql())
    return len(_find(session)) < before


def list(connection: Given) -> builtins.list[InstalledTrigger]:  # noqa: A001 - triggers.list()
    """Return all triggers of pgnotifier in the database, with those of Django and Alembic.

    Functions that were left when a table was dropped are among them.

    Args:
        connection: As for `create`.
    """
    return _find(find_session(connection))


def drop_orphans(connection: Given) -> builtins.list[str]:
    """Drop the functions that no trigger calls any more, if this role may drop them.

    Args:
        connection: As for `create`.

    Returns:
        The names of the functions.
    """
    session = find_session(connection)
    found = session.execute(installed.FIND_ORPHANS, ())
    names = [f"{quote(schema)}.{quote(name)}" for _, schema, name in found]
    for name in names:
        session.run(f"DROP FUNCTION IF EXISTS {name}()")
    return names


def _find(session: Session) -> builtins.list[InstalledTrigger]:
    found = installed.read_found(session.execute(installed.FIND, ()))
    return [
        InstalledTrigger(**{name: getattr(one, name) for name in one.__slots__}) for one in found
    ]


_REFUSED = ("42", "0A", "3F", "55", "25006", "54", "2BP01", ERROR)
"""The classes of errors that say that a trigger can't be created as it is declared."""


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise the server's refusals as `TriggerError`; others stay those of the driver."""
    try:
        yield
    except PgNotifierError:
        raise
    except Exception as exc:
        state = find_state(exc) or ""
        if not state.startswith(_REFUSED) or state == "55P03":  # lock_not_available
            raise
        cause = getattr(exc, "orig", None) or exc.__cause__ or exc  # SQLAlchemy's and Django's
        said = getattr(cause, "diag", None)  # without the query and the lines that it is from
        reason = getattr(said, "message_primary", None) or cause
        raise TriggerError(f"{what}: {in_one_line(reason)}") from exc
