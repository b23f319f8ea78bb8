"""Write the statements that create triggers with their function, replace and remove them.

Each is one DO: it looks up what only the database knows, and quotes names that it has found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pgnotifier._triggers.quoting import literal


@dataclass(frozen=True, slots=True)
class Creation:
    """What to create.

    Attributes:
        table: An expression for the table, a regclass.
        function: The name of the function, unless it is taken.
        former: A condition on triggers (`t`) and their functions (`p`): those to replace.
        parts: For each trigger its name, what comes before the name of the table, and what after
            it.
        source: The source of the function in pieces; between two of them comes the value of a
            variable, which `slots` names.
        origin: The beginning of the sources of functions that may be dropped.
        slots: The variables between the pieces.
        variables: More variables, declared.
        before: Statements that are executed before the source is made. They may use `its_table`,
            `its_schema`, `schema_name`, `table_name` and `kind`.
        before_drop: Statements that are executed before the former triggers are dropped. They may
            use `its_source`, too.
        before_functions: Statements that are executed after the triggers are dropped.
    """

    table: str
    function: str
    former: str
    parts: Sequence[tuple[str, str, str]]
    source: Sequence[str]
    origin: str
    slots: Sequence[str] = ()
    variables: str = ""
    before: str = ""
    before_drop: str = ""
    before_functions: str = ""


def create_statement(made: Creation) -> str:
    """Return the statement that creates triggers and their function, or replaces existing ones.

    The function is in the table's schema; if its name is taken, it gets another one. It never
    replaces another function, because the owner of that function could change it later. Triggers
    that it replaces stay disabled or `ENABLE ALWAYS`.
    """
    pieces = [_dollar_quoted(made.source[0])]
    for slot, piece in zip(made.slots, made.source[1:], strict=True):
        pieces += [slot, _dollar_quoted(piece)]
    source = pieces[0] if len(pieces) == 1 else f"pg_catalog.concat({', '.join(pieces)})"
    created = "".join(_create_trigger(*part) for part in made.parts)
    return f"""DO $pgnotifier$
DECLARE
    its_table pg_catalog.regclass := {made.table};
    its_function pg_catalog.name := {literal(made.function)};
    its_source pg_catalog.text;
{_DECLARED}{made.variables}BEGIN
    SELECT n.oid, n.nspname, c.relname, c.relkind INTO its_schema, schema_name, table_name, kind
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.oid OPERATOR(pg_catalog.=) its_table;
{made.before}    its_source := {source};
{made.before_drop}{_drop(made.former, made.origin)}{made.before_functions}    WHILE EXISTS (
        SELECT FROM pg_catalog.pg_proc p
        WHERE p.pronamespace OPERATOR(pg_catalog.=) its_schema
        AND p.proname OPERATOR(pg_catalog.=) its_function
    ) LOOP
        its_function := pg_catalog.concat(
            'pgnotifier_', pg_catalog.md5(pg_catalog.random()::pg_catalog.text));
    END LOOP;
    EXECUTE pg_catalog.concat(
        'CREATE FUNCTION ', pg_catalog.quote_ident(schema_name), '.',
        pg_catalog.quote_ident(its_function), '() RETURNS pg_catalog.trigger LANGUAGE plpgsql ',
        'SET search_path = pg_catalog, pg_temp AS ', pg_catalog.quote_literal(its_source));
{created}END
$pgnotifier$;"""  # noqa: S608 - names are quoted


def remove_statement(table: str, former: str, origin: str) -> str:
    """Return the statement that removes triggers, and their function: see `Creation`."""
    return f"""DO $pgnotifier$
DECLARE
    its_table pg_catalog.regclass := {table};
{_DECLARED}BEGIN
    SELECT n.nspname, c.relname INTO schema_name, table_name
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.oid OPERATOR(pg_catalog.=) its_table;
{_drop(former, origin)}END
$pgnotifier$;"""  # noqa: S608 - names are quoted


def orphans_query(origin: str) -> str:
    """Return a query for our functions that no trigger calls, and that this role may drop."""
    return f"""
SELECT p.oid, n.nspname, p.proname
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
WHERE pg_catalog.starts_with(p.prosrc, {literal(origin.strip())})
AND p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.trigger'::pg_catalog.regtype
AND pg_catalog.pg_has_role(p.proowner, 'USAGE')
AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_trigger t WHERE t.tgfoid OPERATOR(pg_catalog.=) p.oid
)
"""  # noqa: S608 - a constant


_DECLARED = """    its_schema pg_catalog.oid;
    schema_name pg_catalog.text;
    table_name pg_catalog.text;
    former pg_catalog.record;
    fires pg_catalog.text;
    dropping pg_catalog.text;
    kind pg_catalog.text;
"""


def _drop(former: str, origin: str) -> str:
    """Return statements that drop the former triggers, with their functions: see `Creation`."""
    return f"""    FOR former IN
        SELECT t.tgname, t.tgfoid, t.tgenabled FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
        WHERE t.tgrelid OPERATOR(pg_catalog.=) its_table AND {former}
    LOOP
        fires := former.tgenabled;
        EXECUTE pg_catalog.concat(
            'DROP TRIGGER ', pg_catalog.quote_ident(former.tgname), ' ON ',
            pg_catalog.quote_ident(schema_name), '.', pg_catalog.quote_ident(table_name));
        dropping := NULL;
        SELECT pg_catalog.concat(
            'DROP FUNCTION ', pg_catalog.quote_ident(n.nspname), '.',
            pg_catalog.quote_ident(p.proname), '()')
        INTO dropping FROM ({orphans_query(origin).strip()}) mine
        JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) mine.oid
        JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
        WHERE p.oid OPERATOR(pg_catalog.=) former.tgfoid;
        IF dropping IS NOT NULL THEN
            EXECUTE dropping;
        END IF;
    END LOOP;
"""  # noqa: S608 - a constant


def _create_trigger(name: str, before: str, after: str) -> str:
    return f"""    EXECUTE pg_catalog.concat(
        'CREATE TRIGGER ', pg_catalog.quote_ident({literal(name)}),
        ' {before} ', pg_catalog.quote_ident(schema_name), '.',
        pg_catalog.quote_ident(table_name),
        ' {after} EXECUTE FUNCTION ', pg_catalog.quote_ident(schema_name), '.',
        pg_catalog.quote_ident(its_function), '()');
    IF fires OPERATOR(pg_catalog.<>) 'O' THEN
        EXECUTE pg_catalog.concat(
            'ALTER TABLE ', pg_catalog.quote_ident(schema_name), '.',
            pg_catalog.quote_ident(table_name),
            CASE WHEN fires OPERATOR(pg_catalog.=) 'D' THEN ' DISABLE'
                WHEN fires OPERATOR(pg_catalog.=) 'A' THEN ' ENABLE ALWAYS'
                ELSE ' ENABLE REPLICA' END,
            ' TRIGGER ', pg_catalog.quote_ident({literal(name)}));
    END IF;
"""


def _dollar_quoted(piece: str) -> str:
    """Return a piece of source, which is readable unless it has a `$`."""
    return literal(piece) if "$" in piece else f"$source${piece}$source$"
