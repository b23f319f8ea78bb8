"""Write the function of triggers that are executed once for each statement.

They read the rows in transition tables:
https://www.postgresql.org/docs/current/sql-createtrigger.html
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgnotifier._triggers.quoting import literal, quote
from pgnotifier._triggers.row_body import (
    FAILED,
    MISMATCH,
    OTHERS,
    TRUNCATED,
    deliver,
    is_operation,
    most_bytes,
)
from pgnotifier._triggers.slots import (
    IDENTITY,
    NEW_BACKWARDS,
    NEW_ENDS,
    NEW_KEY,
    NEW_ORDER,
    NEW_TEXT,
    NO_OLD,
    OLD_BACKWARDS,
    OLD_ENDS,
    OLD_KEY,
    OLD_ORDER,
    OLD_TEXT,
    SAME_KEY,
)

STATEMENT_VARIABLES = (
    ("amount", "pg_catalog.int8"),
    ("head", "pg_catalog.jsonb"),
    ("first", "pg_catalog.jsonb"),
    ("last", "pg_catalog.jsonb"),
    ("wanted", "pg_catalog.text"),
    ("item", "pg_catalog.text"),
    ("part", "pg_catalog.text"),
    ("parts", "pg_catalog.text[]"),
    ("payload", "pg_catalog.text"),
    ("payloads", "pg_catalog.text[] := '{}'"),
    ("room", "pg_catalog.int4"),
)

OLD_ROWS, NEW_ROWS = "pgnotifier_old", "pgnotifier_new"
"""The names of the transition tables."""

MAX_PARTS = 8
"""How many notifications a statement sends at most."""
_MIN_BYTES = 3  # of a key, and what separates it from the next one
_MARGIN = 80  # what a payload has around its list


@dataclass(frozen=True, slots=True)
class StatementBody:
    """What the function of triggers does for a statement.

    Attributes:
        channel: The channel to notify.
        events: INSERT, UPDATE and DELETE, those of them that it is called for.
        columns: Which columns count for an update; none for all of them.
        payload: "key", "changed" or "full".
        durable: Whether to publish to the log.
        condition: SQL that decides whether a row counts.
    """

    channel: str
    events: Sequence[str]
    columns: Sequence[str]
    payload: str
    durable: bool
    condition: str | None

    @property
    def compares(self) -> bool:
        """Whether an update's new rows are compared with the old ones."""
        return bool(self.columns or self.condition or self.payload != "key")


def statement_body(made: StatementBody) -> str:
    """Return the statements of the function, for PL/pgSQL.

    A change never fails because of its notification: see `row_body`. Up to `MAX_PARTS`
    notifications have lists of what has changed. If that isn't enough, they have keys alone; and if
    that isn't either, one has the number of rows, with the first key and the last. An entry of the
    log has room for all.
    """
    minimal = (
        f"{IDENTITY}, 'operation', pg_catalog.lower(TG_OP), 'count', amount, 'truncated', true"
    )
    longest = most_bytes(made.durable)
    lines = ["FOR attempt IN 1..2 LOOP BEGIN", "    payloads := '{}';"]
    for number, event in enumerate(made.events):
        lines.append(f"    {'ELSIF' if number else 'IF'} {is_operation(event)} THEN")
        lines += [f"        {line}" for line in _collect(made, event)]
    return "\n".join(
        [
            *lines,
            "    END IF;",
            "    EXIT;",
            OTHERS,
            f"    IF {MISMATCH} AND (attempt OPERATOR(pg_catalog.=) 1) THEN",
            "        DISCARD PLANS;",
            "    ELSE",
            f"        RAISE WARNING USING MESSAGE = pg_catalog.concat({FAILED});",
            f"        payloads := ARRAY[(head {TRUNCATED})::pg_catalog.text];",
            "        EXIT;",
            "    END IF;",
            "END; END LOOP;",
            "FOREACH payload IN ARRAY payloads LOOP",
            "    IF payload IS NULL",
            f"        OR pg_catalog.octet_length(payload) OPERATOR(pg_catalog.>) {longest}",
            "    THEN  -- so long a key or a context",
            f"        payload := pg_catalog.jsonb_build_object({minimal})::pg_catalog.text;",
            "    END IF;",
            *(f"    {line}" for line in deliver(made.channel, made.durable, "(NULL)")),
            "END LOOP;",
            "RETURN NULL;",
        ]
    )


def _collect(made: StatementBody, event: str) -> Iterable[str]:
    """Yield the statements that make the payloads of an INSERT, UPDATE or DELETE."""
    source = _source(made, event)
    key, text, ends = (
        (OLD_KEY, OLD_TEXT, OLD_ENDS) if event == "DELETE" else (NEW_KEY, NEW_TEXT, NEW_ENDS)
    )
    yield "amount := NULL;"
    yield "head := pg_catalog.jsonb_build_object("
    yield f"    {IDENTITY}, 'operation', pg_catalog.lower(TG_OP)"
    yield ") OPERATOR(pg_catalog.||) context;"
    yield f"SELECT pg_catalog.count(*), {ends} INTO amount, first, last"
    yield from source
    yield ";"
    yield "IF amount OPERATOR(pg_catalog.=) 0 THEN"
    yield "    RETURN NULL;"
    yield "END IF;"
    yield ("head := head OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object('count', amount);")
    room = most_bytes(made.durable) - _MARGIN
    yield f"room := {room} OPERATOR(pg_catalog.-) pg_catalog.octet_length(head::pg_catalog.text);"
    forms = (
        {"rows": f"({_row_item(made, event, key)})::pg_catalog.text"}
        if made.payload != "key"
        else {}
    )
    forms["pks"] = text
    for number, (form, item) in enumerate(forms.items()):
        indent = "    " * number
        yield f"{indent}wanted := '{form}';"
        gather = _gather_all if made.durable else _gather_some
        yield from (f"{indent}{line}" for line in gather(item, source))
        yield f"{indent}IF parts IS NULL THEN"
    indent = "    " * len(forms)
    yield from (f"{indent}{line}" for line in _find_ends(event, key, source))
    yield f"{indent}head := head OPERATOR(pg_catalog.||)"
    yield f"{indent}    pg_catalog.jsonb_build_object('first', first, 'last', last);"
    yield f"{indent}payloads := ARRAY[(head {TRUNCATED})::pg_catalog.text];"
    for number in reversed(range(len(forms))):
        yield "    " * number + "END IF;"
    yield "IF parts IS NOT NULL THEN"
    yield "    FOR number IN 1..pg_catalog.cardinality(parts) LOOP"
    yield "        payloads := pg_catalog.array_append(payloads, pg_catalog.concat("
    yield "            pg_catalog.left(head::pg_catalog.text, -1),"
    yield "            CASE WHEN pg_catalog.cardinality(parts) OPERATOR(pg_catalog.>) 1 THEN"
    yield "                pg_catalog.concat(', \"part\": ', number, ', \"parts\": ',"
    yield "                    pg_catalog.cardinality(parts)) END,"
    yield "            ', \"', wanted, '\": [', parts[number], ']}'));"
    yield "    END LOOP;"
    yield "END IF;"


def _find_ends(event: str, key: str, source: Sequence[str]) -> Iterable[str]:
    """Yield statements that find the first key and the last by sorting."""
    side, order, backwards = (
        ("old", OLD_ORDER, OLD_BACKWARDS)
        if event == "DELETE"
        else ("new", NEW_ORDER, NEW_BACKWARDS)
    )
    yield "IF first IS NULL THEN"
    for what, sort in (("first", order), ("last", backwards)):
        yield f"    SELECT {key} INTO {what} FROM (SELECT {order}"  # noqa: S608
        yield from source
        yield f"    ORDER BY {sort} LIMIT 1) AS {side};"
    yield "END IF;"


def _source(made: StatementBody, event: str) -> list[str]:
    """Return the FROM and WHERE of a query for the rows that count."""
    if event == "UPDATE" and not made.compares:
        return [f"FROM {NEW_ROWS} AS new"]
    if event == "UPDATE":
        lines = [f"FROM {NEW_ROWS} AS new LEFT JOIN {OLD_ROWS} AS old ON {SAME_KEY}"]
    elif made.condition is None:
        side = "old" if event == "DELETE" else "new"
        return [f"FROM {OLD_ROWS if event == 'DELETE' else NEW_ROWS} AS {side}"]
    else:  # the other side is there, and null
        rows, side, other = (
            (OLD_ROWS, "old", "new") if event == "DELETE" else (NEW_ROWS, "new", "old")
        )
        lines = [
            f"FROM {rows} AS {side}",
            f"LEFT JOIN (SELECT none.* FROM {rows} AS none WHERE false) AS {other} ON true",  # noqa: S608
        ]
    conditions = []
    if event == "UPDATE" and made.columns:
        differ = " OR ".join(_differ(f"{{}}.{quote(one)}") for one in made.columns)
        conditions.append(f"({NO_OLD} OR {differ})")
    elif event == "UPDATE":
        conditions.append(f"({NO_OLD} OR {_differ('{}.*')})")
    if made.condition is not None:
        conditions.append(f"((\n{made.condition}\n)) IS TRUE")
    lines.append(f"WHERE {' AND '.join(conditions)}")
    return lines


def _differ(what: str) -> str:
    new, old = (f"ROW({what.replace('{}', side)})::pg_catalog.record" for side in ("new", "old"))
    return f"{new} OPERATOR(pg_catalog.*<>) {old}"


def _row_item(made: StatementBody, event: str, key: str) -> str:
    """Return an expression for what a payload says of a row."""
    if event == "DELETE":
        return f"pg_catalog.jsonb_build_object('pk', {key}, 'old', pg_catalog.to_jsonb(old.*))"
    inserted = f"pg_catalog.jsonb_build_object('pk', {key}, 'new', pg_catalog.to_jsonb(new.*))"
    if event == "INSERT":
        return inserted
    counts = ""
    if made.columns:
        names = ", ".join(literal(one) for one in made.columns)
        counts = f" AND n.key OPERATOR(pg_catalog.=) ANY (ARRAY[{names}]::pg_catalog.text[])"
    old, new = "pg_catalog.to_jsonb(old.*)", "pg_catalog.to_jsonb(new.*)"
    if made.payload == "changed":
        empty = "'{}'::pg_catalog.jsonb"
        old = f"COALESCE(pg_catalog.jsonb_object_agg(n.key, o.value), {empty})"
        new = f"COALESCE(pg_catalog.jsonb_object_agg(n.key, n.value), {empty})"
    return f"""CASE WHEN {NO_OLD} THEN {inserted} ELSE (
        SELECT pg_catalog.jsonb_build_object('pk', {key}, 'changed',
            COALESCE(pg_catalog.jsonb_agg(n.key ORDER BY n.key), '[]'::pg_catalog.jsonb),
            'old', {old}, 'new', {new})
        FROM pg_catalog.jsonb_each(pg_catalog.to_jsonb(new.*)) AS n
        JOIN pg_catalog.jsonb_each(pg_catalog.to_jsonb(old.*)) AS o
        ON o.key OPERATOR(pg_catalog.=) n.key
        WHERE n.value::pg_catalog.text OPERATOR(pg_catalog.<>) o.value::pg_catalog.text{counts}
    ) END"""  # noqa: S608 - names are quoted


def _gather_some(item: str, source: Sequence[str]) -> Iterable[str]:
    """Yield statements that make lists for `MAX_PARTS` notifications; null if that is too few."""
    most = MAX_PARTS * most_bytes(durable=False) // _MIN_BYTES
    yield "parts := NULL;"
    yield "part := NULL;"
    yield f"IF amount OPERATOR(pg_catalog.<=) {most} THEN"
    yield "    parts := '{}';"
    yield f"    FOR item IN SELECT {item}"
    yield from source
    yield "    LOOP"
    yield "        IF part IS NULL THEN"
    yield "            part := item;"
    yield "        ELSIF pg_catalog.octet_length(part) OPERATOR(pg_catalog.+)"
    yield "            pg_catalog.octet_length(item) OPERATOR(pg_catalog.<) room"
    yield "        THEN"
    yield "            part := pg_catalog.concat(part, ', ', item);"
    yield "        ELSE"
    yield "            parts := pg_catalog.array_append(parts, part);"
    yield "            part := item;"
    yield "        END IF;"
    yield "        IF pg_catalog.octet_length(part) OPERATOR(pg_catalog.>) room"
    yield f"            OR pg_catalog.cardinality(parts) OPERATOR(pg_catalog.=) {MAX_PARTS}"
    yield "        THEN"
    yield "            parts := NULL;"
    yield "            EXIT;"
    yield "        END IF;"
    yield "    END LOOP;"
    yield "    IF parts IS NOT NULL THEN"
    yield "        parts := pg_catalog.array_append(parts, part);"
    yield "    END IF;"
    yield "END IF;"


def _gather_all(item: str, source: Sequence[str]) -> Iterable[str]:
    """Yield statements that make one list; null if it is too long for an entry."""
    yield f"SELECT pg_catalog.string_agg({item}, ', ') INTO part"
    yield from source
    yield ";"
    yield "parts := CASE WHEN pg_catalog.octet_length(part) OPERATOR(pg_catalog.<=) room"
    yield "    THEN ARRAY[part] END;"
