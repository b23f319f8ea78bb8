"""What a trigger is to do, checked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args

from pgnotifier._connection.parameters import MAX_NAME_BYTES
from pgnotifier._registry.checks import check_channel, check_unreserved
from pgnotifier._triggers.quoting import quote_plainly, shorten
from pgnotifier.errors import ArgumentTypeError, TriggerError

Event = Literal["insert", "update", "delete", "truncate"]
"""What is done with rows."""
Payload = Literal["key", "changed", "full"]
"""What is sent of a row."""
Per = Literal["row", "statement"]
"""How often a trigger notifies."""

EVENTS: Final[tuple[Event, ...]] = get_args(Event)


@dataclass(frozen=True, slots=True)
class Declaration:
    """Notifies of what is done with the rows of a table.

    It becomes a function and one to four triggers of PostgreSQL.

    Attributes:
        table: The name of the table, exactly as PostgreSQL has it.
        channel: The channel to notify.
        on: What to notify of: "insert", "update", "delete" and "truncate". Default: all of them.
        columns: Notify of an update only if one of these columns has changed. Default: any.
        when: SQL that decides whether a row counts, with `OLD` and `NEW`. Functions that aren't
            PostgreSQL's own need their schema. `OLD` is null for an insert, and `NEW` for a delete.
            It is part of the function: never make it of what somebody else has typed.
        payload: "key" sends the primary key, "changed" the values that have changed as well, and
            "full" all values.
        per: "row" notifies of each row, "statement" of all rows of a statement together.
        durable: Publish to the durable log. The roles that change rows need the rights of a
            publisher, and a change fails if it can't be published.
        context: Send the setting `pgnotifier.context` of the session, if it is set.
        key: The columns that identify a row. Default: the primary key.
        schema: The table's schema. Default: the first of the search_path that has such a table.
        name: The name of the trigger. Each table has one of that name. Default: made from the
            channel's.

    Raises:
        ArgumentTypeError: An argument has a wrong type.
        ChannelNameError: PostgreSQL doesn't allow the name of the channel; or it is an outbox.
        TriggerError: The arguments make no trigger.
    """

    table: str
    channel: str
    on: Sequence[Event] = EVENTS
    columns: Sequence[str] = ()
    when: str | None = None
    payload: Payload = "key"
    per: Per = "row"
    durable: bool = False
    context: bool = False
    key: Sequence[str] = ()
    schema: str | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """Check the arguments, and complete the name."""
        check_unreserved(check_channel(self.channel))
        on = _several("on", self.on)
        if unknown := [one for one in on if one not in EVENTS]:
            raise TriggerError(f"on has {unknown[0]!r:.80}; it takes {', '.join(EVENTS)}")
        if not on:
            raise TriggerError("on is empty; name at least one of " + ", ".join(EVENTS))
        name = self.name or f"pgnotifier_{self.channel}"
        complete = {
            "on": tuple(one for one in EVENTS if one in on),
            "columns": _several("columns", self.columns),
            "key": _several("key", self.key),
            "when": self.when or None,
            "name": shorten(name, MAX_NAME_BYTES - len("_truncate")),
        }
        for attribute, value in complete.items():
            object.__setattr__(self, attribute, value)
        for what, one in (("payload", Payload), ("per", Per)):
            if getattr(self, what) not in get_args(one):
                allowed = ", ".join(get_args(one))
                raise TriggerError(f"{what} is {getattr(self, what)!r:.80}; it takes {allowed}")
        if self.columns and "update" not in self.on:
            raise TriggerError("columns are watched for updates, which this trigger is not on")
        for text in (self.table, self.schema, self.when, self.name, *self.columns, *self.key):
            _check_text(text)

    @property
    def qualified(self) -> str:
        """The name of the table in SQL, with its schema if that is known."""
        return quote_plainly(self.schema, self.table)

    @property
    def needs_old_rows(self) -> bool:
        """Whether an update's new rows have to be compared with the old ones."""
        return bool(self.columns or self.when or self.payload != "key")

    def to_dict(self) -> dict[str, Any]:
        """Return its attributes as values of JSON's types."""
        made = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: [*one] if isinstance(one, tuple) else one for name, one in made.items()}

    def options(self) -> dict[str, Any]:
        """Return the arguments that aren't the default, without the table and the channel."""
        plain = Declaration(self.table, self.channel)
        changed = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if getattr(self, one.name) != getattr(plain, one.name)
        }
        return {name: [*one] if isinstance(one, tuple) else one for name, one in changed.items()}


def _several(what: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ArgumentTypeError(f"{what} must be a sequence of str, not {given!r:.80}")
    return tuple(dict.fromkeys(given))


def _check_text(text: object) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        raise ArgumentTypeError(f"a name must be a str, not {text!r:.80}")
    if not text or "\0" in text or (not text.isascii() and _has_surrogate(text)):
        raise TriggerError(f"{text!r:.80} isn't a name or a condition that PostgreSQL takes")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= one <= "\udfff" for one in text)
