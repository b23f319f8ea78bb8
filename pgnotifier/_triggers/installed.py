"""Find the triggers of a database, and what they do."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pgnotifier._triggers.creating import orphans_query
from pgnotifier._triggers.declaration import EVENTS, Event
from pgnotifier._triggers.functions import MAKERS, ORIGIN

FIND = f"""
SELECT n.nspname::pg_catalog.text, p.proname::pg_catalog.text, p.prosrc,
    tn.nspname::pg_catalog.text, c.relname::pg_catalog.text,
    t.tgname::pg_catalog.text, t.tgenabled::pg_catalog.text, t.tgtype::pg_catalog.int4
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
LEFT JOIN pg_catalog.pg_trigger t ON t.tgfoid OPERATOR(pg_catalog.=) p.oid
    AND t.tgparentid OPERATOR(pg_catalog.=) '0'::pg_catalog.oid
LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE pg_catalog.starts_with(p.prosrc, '{ORIGIN}')
AND p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.trigger'::pg_catalog.regtype
ORDER BY n.nspname, c.relname, t.tgname, p.proname
"""  # noqa: S608 - a constant
"""Finds our functions, with the triggers that call them; also those without."""

FIND_ORPHANS = orphans_query(ORIGIN)
"""Finds those without, if this role may drop them."""

_ENABLED = {"O": "yes", "D": "no", "A": "always", "R": "on replicas"}
_BITS: dict[Event, int] = {"insert": 4, "delete": 8, "update": 16, "truncate": 32}
_DJANGO = re.compile(r"pg_notify\('((?:[^']|'')+)', payload\)|VALUES \(\n    '((?:[^']|'')+)',")


@dataclass(frozen=True, slots=True)
class Found:
    """A function of ours in the database.

    Attributes:
        schema: The schema of its table; of the function, if there is no table.
        table: The table; None if the trigger or the table was dropped, and the function is left.
        name: The name of the trigger; of the function, if there is no trigger.
        channel: The channel; None if it isn't known.
        on: What it is called for.
        enabled: "yes", "no", "always" or "on replicas"; "partly" if that differs between the
            triggers that make it up.
        made_by: "pgnotifier", "alembic" or "django".
        function: The name of the function.
        made: What it was created of, as `Declaration.to_dict` says; None if Django has made it.
        durable: Whether it publishes to the log.
    """

    schema: str
    table: str | None
    name: str
    channel: str | None
    on: Sequence[Event]
    enabled: str
    made_by: str
    function: str
    made: dict[str, Any] | None
    durable: bool


def read_found(rows: Iterable[Sequence[Any]]) -> list[Found]:
    """Return what `FIND` has found, one for each function and table."""
    grouped: dict[tuple[Any, ...], list[Sequence[Any]]] = {}
    for row in rows:
        grouped.setdefault((*row[:2], *row[3:5]), []).append(row)
    return [_read(group) for group in grouped.values()]


def _read(rows: Sequence[Sequence[Any]]) -> Found:
    schema, function, source, table_schema, table, name, _, _ = rows[0]
    made_by, made = _describe(source)
    states = {_ENABLED.get(row[6], "partly") for row in rows if row[6]}
    bits = [row[7] or 0 for row in rows]
    channel: str | None = made["channel"] if made else None
    if made is None and (said := _DJANGO.search(source)):
        channel = (said[1] or said[2]).replace("''", "'")
    return Found(
        schema=table_schema or schema,
        table=table,
        name=made["name"] if made and name else name or function,
        channel=channel,
        on=tuple(one for one in EVENTS if any(_BITS[one] & bit for bit in bits)),
        enabled=(states.pop() if len(states) == 1 else "partly") if states else "no",
        made_by=made_by,
        function=function,
        made=made,
        durable=made["durable"] if made else "INSERT INTO pgnotifier.log" in source,
    )


def _describe(source: str) -> tuple[str, dict[str, Any] | None]:
    """Return what has made a function, and of what. Anybody can have written the source."""
    first, _, rest = source.partition("\n")
    made_by = next((name for name, line in MAKERS.items() if line == first), "django")
    if made_by == "django":
        return made_by, None
    line = rest.partition("\n")[2].partition("\n")[0]
    try:
        made = json.loads(line.removeprefix("-- "))
    except (ValueError, RecursionError):
        return made_by, None
    if not isinstance(made, dict):
        return made_by, None
    named = {one: made.get(one) for one in ("channel", "name", "durable")}
    if not isinstance(named["channel"], str) or not isinstance(named["name"], str):
        return made_by, None
    made.pop("version", None)
    return made_by, {**made, "durable": bool(named["durable"])}
