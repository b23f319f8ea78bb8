"""Write the source of a trigger's function, of what the trigger is to do."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pgnotifier._triggers.declaration import Declaration
from pgnotifier._triggers.row_body import VARIABLES, RowBody, deliver, is_operation, row_body
from pgnotifier._triggers.slots import COMPARED, IDENTITY, NEW_KEY, OLD_KEY, split
from pgnotifier._triggers.statement_body import STATEMENT_VARIABLES, StatementBody, statement_body

ORIGIN = "-- Made by pgnotifier"
"""The beginning of the source of each of our functions, with those of Django."""
MAKERS = {
    "pgnotifier": f"{ORIGIN}; `pgnotifier trigger` replaces and drops it.",
    "alembic": f"{ORIGIN}.contrib.alembic; a revision replaces and drops it.",
}
"""The first line of a source, by what has made it."""
VERSION = 1
"""The version of what describes a trigger in the third line."""

_CONTEXT = ("context", "pg_catalog.jsonb := '{}'")
_SETTING = ("setting", "pg_catalog.text := pg_catalog.current_setting('pgnotifier.context', true)")


def make_source(made: Declaration, made_by: str) -> tuple[list[str], list[str]]:
    """Return the pieces of the source of a trigger's function, and what comes between them."""
    described = {**made.to_dict(), "version": VERSION}
    # A user's name in a condition is that of a column, also if a variable has it.
    head = [MAKERS[made_by], name_line(made.name), f"-- {_comment(described)}"]
    variables = VARIABLES if made.per == "row" else STATEMENT_VARIABLES
    if made.context or made.per == "statement" or "truncate" in made.on:
        variables = (_CONTEXT, *variables)
    if made.context:
        variables = (_SETTING, *variables)
    declared = [f"    {name} {kind};" for name, kind in variables]
    lines = [
        *head,
        "#variable_conflict use_column",
        "DECLARE",
        *declared,
        "BEGIN",
        *(_read_context() if made.context else ()),
        *(_truncated(made) if "truncate" in made.on else ()),
        _body(made),
        "END",
    ]
    return split("\n".join(lines) + "\n")


def name_line(name: str) -> str:
    """Return the second line of the source of a function, which names the trigger."""
    return f"-- name: {_comment(name)}"


def _body(made: Declaration) -> str:
    if made.per == "statement":
        return statement_body(
            StatementBody(
                channel=made.channel,
                events=[one.upper() for one in made.on if one != "truncate"],
                columns=made.columns,
                payload=made.payload,
                durable=made.durable,
                condition=made.when,
            )
        )
    watched: bool | Sequence[str] | None = made.columns or (made.payload != "key" or None)
    return row_body(
        RowBody(
            channel=made.channel,
            identity=IDENTITY,
            old_key=OLD_KEY,
            new_key=NEW_KEY,
            watched=watched if "update" in made.on else False,
            compared=[COMPARED],
            values={}
            if made.payload == "key"
            else {"old": _side(made, "OLD"), "new": _side(made, "NEW")},
            durable=made.durable,
            context=made.context,
            condition=made.when,
        )
    )


def _side(made: Declaration, row: str) -> str:
    if made.payload == "full":
        return f"pg_catalog.to_jsonb({row})"
    return f"""CASE WHEN {is_operation("UPDATE")} THEN COALESCE((
                SELECT pg_catalog.jsonb_object_agg(e.key, e.value)
                FROM pg_catalog.jsonb_each(pg_catalog.to_jsonb({row})) e
                WHERE e.key OPERATOR(pg_catalog.=) ANY (changed)
            ), '{{}}'::pg_catalog.jsonb) ELSE pg_catalog.to_jsonb({row}) END"""  # noqa: S608 - OLD or NEW


def _read_context() -> Iterable[str]:
    """Yield statements that read the setting. What isn't JSON becomes a string."""
    yield "IF setting OPERATOR(pg_catalog.<>) '' THEN"
    yield "    BEGIN"
    yield "        context := pg_catalog.jsonb_build_object("
    yield "            'context', setting::pg_catalog.jsonb);"
    yield "    EXCEPTION WHEN OTHERS THEN"
    yield "        context := pg_catalog.jsonb_build_object('context', setting);"
    yield "    END;"
    yield "END IF;"


def _truncated(made: Declaration) -> Iterable[str]:
    yield f"IF {is_operation('TRUNCATE')} THEN"
    said = f"pg_catalog.jsonb_build_object({IDENTITY}, 'operation', 'truncate')"
    yield f"    payload := ({said} OPERATOR(pg_catalog.||) context)::pg_catalog.text;"
    yield "    IF pg_catalog.octet_length(payload) OPERATOR(pg_catalog.>) 7999 THEN"
    yield f"        payload := ({said} OPERATOR(pg_catalog.||)"
    yield "            '{\"truncated\": true}'::pg_catalog.jsonb)::pg_catalog.text;"
    yield "    END IF;"
    yield from (f"    {line}" for line in deliver(made.channel, made.durable, "(NULL)"))
    yield "    RETURN NULL;"
    yield "END IF;"


def _comment(value: Any) -> str:
    """Return a value as JSON in one line, without `$` and `%`."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    return text.replace("$", "\\u0024").replace("%", "\\u0025")
