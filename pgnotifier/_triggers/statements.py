"""Write the statements that create and drop a trigger."""

from collections.abc import Iterable

from pgnotifier._triggers.creating import Creation, create_statement, remove_statement
from pgnotifier._triggers.declaration import Declaration
from pgnotifier._triggers.functions import ORIGIN, make_source, name_line
from pgnotifier._triggers.preparing import VARIABLES, prepare, transition_tables
from pgnotifier._triggers.quoting import literal, shorten


def create_sql(made: Declaration, made_by: str = "pgnotifier") -> str:
    """Return the statement that creates a trigger, or replaces the one of this name.

    Args:
        made: The trigger.
        made_by: Who may replace and drop it: "pgnotifier" or "alembic".
    """
    pieces, slots = make_source(made, made_by)
    parts = [*_parts(made)]
    return create_statement(
        Creation(
            table=_found(made),
            function=shorten(f"{made.name}_{made.table}"),
            former=_former(made),
            parts=parts,
            source=pieces,
            origin=ORIGIN,
            slots=slots,
            variables=VARIABLES,
            before=prepare(made),
            before_drop=_leave_equal(made, len(parts)),
        )
    )


def drop_sql(made: Declaration) -> str:
    """Return the statement that drops a trigger with its function, if it is there."""
    return remove_statement(_found(made), _former(made), ORIGIN)


def _found(made: Declaration) -> str:
    return f"pg_catalog.to_regclass({literal(made.qualified)})"


def _former(made: Declaration) -> str:
    """Return a condition for the triggers that have been created under this name."""
    return (
        f"pg_catalog.starts_with(p.prosrc, {literal(ORIGIN)}) AND pg_catalog.split_part("
        "p.prosrc, pg_catalog.chr(10), 2) OPERATOR(pg_catalog.=) "
        f"{literal(name_line(made.name))}"
    )


def _leave_equal(made: Declaration, parts: int) -> str:
    """Return a statement that ends the creation if it is done: dropping locks out readers."""
    return f"""    IF {parts} OPERATOR(pg_catalog.=) (
        SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
        WHERE t.tgrelid OPERATOR(pg_catalog.=) its_table AND {_former(made)}
        AND p.prosrc OPERATOR(pg_catalog.=) its_source
        AND pg_catalog.pg_has_role(p.proowner, 'USAGE')
    ) THEN
        RETURN;
    END IF;
"""  # noqa: S608 - names are quoted


def _parts(made: Declaration) -> Iterable[tuple[str, str, str]]:
    """Yield the triggers of PostgreSQL that make it up: see `Creation`."""
    rows = [one for one in made.on if one != "truncate"]
    if made.per == "row" and rows:
        yield made.name, f"AFTER {' OR '.join(rows).upper()} ON", "FOR EACH ROW"
    elif made.per == "statement":
        for event in rows:  # a trigger with transition tables is for one event
            tables = transition_tables(made, event)
            after = f"REFERENCING {tables} FOR EACH STATEMENT"
            yield f"{made.name}_{event}", f"AFTER {event.upper()} ON", after
    if "truncate" in made.on:
        yield f"{made.name}_truncate", "AFTER TRUNCATE ON", "FOR EACH STATEMENT"
