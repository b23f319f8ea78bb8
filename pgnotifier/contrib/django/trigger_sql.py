"""Write the SQL that creates, calls and removes the triggers of `notify_on`.

All of it names types, functions and operators with their schema, and the functions set their own
search_path. Otherwise, anybody who may create objects in a schema of the path could make everybody
who changes a row run their code:
https://wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import FieldDoesNotExist

from pgnotifier._log import composing
from pgnotifier.payload import MAX_PAYLOAD_BYTES

Fields = bool | Sequence[str]

ORIGIN = "-- Made by pgnotifier.contrib.django; `manage.py migrate` replaces and drops it.\n"
"""The beginning of the source of our functions."""

VARIABLES = (
    ("changed", "pg_catalog.text[] := '{}'"),
    ("head", "pg_catalog.jsonb"),
    ("whole", "pg_catalog.jsonb"),
    ("payload", "pg_catalog.text"),
)

_PAIRS = 40
"""How many pairs to pass to `jsonb_build_object`: functions have at most 100 arguments."""


class TriggerDefinition(NamedTuple):
    """The definition of a trigger: the arguments of `NotifyOn`."""

    channel: str
    insert: bool
    update: Fields
    delete: bool
    old: Fields
    new: Fields
    durable: bool = False

    @property
    def events(self) -> list[str]:
        """The operations that it notifies of: `insert`, `update`, `delete`."""
        return [event for event in ("insert", "update", "delete") if getattr(self, event)]


def make_body(model: Any, definition: TriggerDefinition) -> str:
    """Return the statements of the trigger's function, for PL/pgSQL.

    A change of a row never fails because of its notification. If making the payload fails (a user's
    cast raises an error, a value is too large for jsonb), the payload is sent without values. The
    block that catches the error costs a subtransaction, but that doesn't get an id. A durable
    trigger fails if it can't publish at all.

    A session keeps the plan of `NEW.column` with the type that the column had. After an ALTER TABLE
    that has changed the type, that is an error; the second attempt then has a new plan.
    """
    minimal = (
        f"'model', {literal(model._meta.label_lower)}, 'operation', pg_catalog.lower(TG_OP), "
        "'pk', NULL, 'truncated', true"
    )
    truncated = "OPERATOR(pg_catalog.||) '{\"truncated\": true}'::pg_catalog.jsonb"
    unchanged = "(head OPERATOR(pg_catalog.-) 'changed'::pg_catalog.text)"
    most = composing.MAX_PAYLOAD_BYTES if definition.durable else MAX_PAYLOAD_BYTES
    too_long = f"pg_catalog.octet_length(payload) OPERATOR(pg_catalog.>) {most}"
    mismatch = "(SQLSTATE OPERATOR(pg_catalog.=) '42804')"  # datatype_mismatch
    failed = "'pgnotifier: ', TG_NAME, ' notifies of a change without its values: ', SQLERRM"
    return "\n".join(
        [
            "FOR attempt IN 1..2 LOOP BEGIN",
            *_begin_payload(model),
            *(_find_changes(model, definition.update) if definition.update else ()),
            "    whole := head;",
            *_add_values(model, definition),
            "    payload := whole::pg_catalog.text;",
            f"    IF {too_long} THEN",
            f"        payload := (head {truncated})::pg_catalog.text;",
            "    END IF;",
            f"    IF {too_long} THEN  -- so many columns",
            f"        payload := ({unchanged} {truncated})::pg_catalog.text;",
            "    END IF;",
            "    EXIT;",
            "EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN",  # OTHERS doesn't include that
            f"    IF {mismatch} AND (attempt OPERATOR(pg_catalog.=) 1) THEN",
            "        DISCARD PLANS;",
            "        changed := '{}';",
            "    ELSE",
            f"        RAISE WARNING USING MESSAGE = pg_catalog.concat({failed});",
            f"        payload := (head {truncated})::pg_catalog.text;",
            "        EXIT;",
            "    END IF;",
            "END; END LOOP;",
            f"IF payload IS NULL OR {too_long} THEN  -- so long a key",
            f"    payload := pg_catalog.jsonb_build_object({minimal})::pg_catalog.text;",
            "END IF;",
            *(_publish if definition.durable else _send)(definition.channel),
            "RETURN NULL;",
        ]
    )


def _send(channel: str) -> Iterable[str]:
    # The right to call pg_notify() can be revoked; everybody may NOTIFY. Not in the block that
    # catches errors: each such block with a notification takes memory until the transaction ends.
    function = "pg_catalog.pg_notify(pg_catalog.text, pg_catalog.text)"
    yield (
        "IF pg_catalog.has_function_privilege("
        f"'{function}'::pg_catalog.regprocedure, 'EXECUTE') THEN"
    )
    yield f"    PERFORM pg_catalog.pg_notify({literal(channel)}, payload);"
    yield "ELSE"
    notify = literal(f"NOTIFY {quote(channel)}, ")
    yield f"    EXECUTE pg_catalog.concat({notify}, pg_catalog.quote_literal(payload));"
    yield "END IF;"


def _publish(channel: str) -> Iterable[str]:
    # The change of the row fails if this does: that is what durable means. Whoever changes a row
    # has locked it, so that the entries of one primary key are in the order of its changes.
    key = "(head OPERATOR(pg_catalog.->>) 'pk'::pg_catalog.text)"
    size = f"pg_catalog.octet_length({key}) OPERATOR(pg_catalog.>) {composing.MAX_KEY_BYTES}"
    yield "INSERT INTO pgnotifier.log (channel, key, payload) VALUES ("
    yield f"    {literal(channel)},"
    yield f"    CASE WHEN {size} THEN pg_catalog.md5{key} ELSE {key} END,"
    yield "    payload"
    yield ");"


def make_source(model: Any, definition: TriggerDefinition) -> str:
    """Return the source of the trigger's function, as `pg_proc.prosrc` has it."""
    declared = "".join(f"    {name} {kind};\n" for name, kind in VARIABLES)
    return f"{ORIGIN}DECLARE\n{declared}BEGIN\n{make_body(model, definition)}\nEND\n"


def _begin_payload(model: Any) -> list[str]:
    return [
        "    head := pg_catalog.jsonb_build_object(",
        f"        'model', {literal(model._meta.label_lower)},",
        "        'operation', pg_catalog.lower(TG_OP),",
        f"        'pk', CASE WHEN {_is('DELETE')} THEN {_key(model, 'OLD')}",
        f"                   ELSE {_key(model, 'NEW')} END",
        "    );",
    ]


def _find_changes(model: Any, update: Fields) -> Iterable[str]:
    # Compare rows by their bytes (`*<>`): a type may have no `=`, or one that another user made.
    # https://www.postgresql.org/docs/current/functions-comparisons.html#COMPOSITE-TYPE-COMPARISON
    yield f"    IF {_is('UPDATE')} THEN"
    if update is True:  # find the columns each time, to include those that are added later
        columns = [field.column for field in model._meta.local_concrete_fields]
        yield "        IF NEW OPERATOR(pg_catalog.*=) OLD THEN"
        yield "            RETURN NULL;"
        yield "        END IF;"
        yield "        changed := ARRAY("
        yield "            SELECT n.key FROM pg_catalog.jsonb_each(pg_catalog.to_jsonb(NEW)) n"
        yield "            JOIN pg_catalog.jsonb_each(pg_catalog.to_jsonb(OLD)) o"
        yield "            ON o.key OPERATOR(pg_catalog.=) n.key"
        yield "            WHERE n.value OPERATOR(pg_catalog.<>) o.value ORDER BY n.key);"
        yield "        IF pg_catalog.cardinality(changed) OPERATOR(pg_catalog.=) 0 THEN"
        # They may be equal as JSON, although they differ: NULL and JSON's null, for example.
        yield from _compare(columns, "            ")
        yield "        END IF;"
    else:
        yield from _compare(find_columns(model, update or ()), "        ")
    yield "        IF pg_catalog.cardinality(changed) OPERATOR(pg_catalog.=) 0 THEN"
    yield "            RETURN NULL;"
    yield "        END IF;"
    yield (
        "        head := head OPERATOR(pg_catalog.||) "
        "pg_catalog.jsonb_build_object('changed', changed);"
    )
    yield "    END IF;"


def _compare(columns: Iterable[str], indent: str) -> Iterable[str]:
    for column in columns:
        new, old = (f"ROW({row}.{quote(column)})::pg_catalog.record" for row in ("NEW", "OLD"))
        yield f"{indent}IF {new} OPERATOR(pg_catalog.*<>) {old} THEN"
        added = f"{literal(column)}::pg_catalog.text"
        yield f"{indent}    changed := pg_catalog.array_append(changed, {added});"
        yield f"{indent}END IF;"


def _add_values(model: Any, definition: TriggerDefinition) -> Iterable[str]:
    for side, without in (("old", "INSERT"), ("new", "DELETE")):
        fields = getattr(definition, side)
        if fields:
            values = _values(model, fields, side.upper())
            yield f"    IF NOT {_is(without)} THEN"
            yield "        whole := whole OPERATOR(pg_catalog.||)"
            yield f"            pg_catalog.jsonb_build_object('{side}', {values});"
            yield "    END IF;"


def _is(operation: str) -> str:
    return f"(TG_OP OPERATOR(pg_catalog.=) '{operation}')"


def _values(model: Any, fields: Fields, row: str) -> str:
    if isinstance(fields, bool):
        return f"pg_catalog.to_jsonb({row})"
    columns = find_columns(model, fields)
    built = []
    for at in range(0, max(len(columns), 1), _PAIRS):
        some = columns[at : at + _PAIRS]
        pairs = ", ".join(f"{literal(one)}, {row}.{quote(one)}" for one in some)
        built.append(f"pg_catalog.jsonb_build_object({pairs})")
    return " OPERATOR(pg_catalog.||) ".join(built)


def _key(model: Any, row: str) -> str:
    """Return an expression for the primary key; an array for a composite one."""
    fields = getattr(model._meta, "pk_fields", None) or [model._meta.pk]
    columns = [f"{row}.{quote(field.column)}" for field in fields]
    if len(columns) == 1:
        return f"pg_catalog.to_jsonb({columns[0]})"
    return f"pg_catalog.jsonb_build_array({', '.join(columns)})"


def find_columns(model: Any, fields: Iterable[str]) -> list[str]:
    """Return the columns of fields. Fields that don't exist are left out; a check reports them."""
    found = []
    for name in fields:
        try:
            column = model._meta.get_field(name).column
        except (FieldDoesNotExist, AttributeError):
            continue
        if column is not None:
            found.append(column)
    return found


# --- creating and removing ---


def make_create(table: str, name: str, events: Sequence[str], source: str) -> str:
    """Return the statement that creates a trigger and its function, or replaces existing ones.

    The function has the trigger's name, in the table's schema; if that name is taken, it gets
    another one. It never replaces another function, because the owner of that function could change
    it later. A trigger that it replaces stays disabled or `ENABLE ALWAYS`. A view gets no trigger.

    Args:
        table: The name of the table, quoted by Django.
        name: The name of the trigger.
        events: `insert`, `update`, `delete`.
        source: The source of the function.
    """
    return f"""DO $pgnotifier$
DECLARE
    its_table pg_catalog.regclass := {literal(table)}::pg_catalog.regclass;
    its_name pg_catalog.name := {literal(name)};
    its_function pg_catalog.name := its_name;
{_DECLARED}BEGIN
    SELECT n.oid, n.nspname, c.relname, c.relkind INTO its_schema, schema_name, table_name, kind
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.oid OPERATOR(pg_catalog.=) its_table;
{_DROP}    IF kind OPERATOR(pg_catalog.=) ANY ('{{v,m}}'::pg_catalog.text[]) THEN RETURN; END IF;
    WHILE EXISTS (
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
        'SET search_path = pg_catalog, pg_temp AS ',
        pg_catalog.quote_literal($source${source}$source$));
    EXECUTE pg_catalog.concat(
        'CREATE TRIGGER ', pg_catalog.quote_ident(its_name),
        ' AFTER {" OR ".join(event.upper() for event in events)} ON ',
        pg_catalog.quote_ident(schema_name), '.', pg_catalog.quote_ident(table_name),
        ' FOR EACH ROW EXECUTE FUNCTION ', pg_catalog.quote_ident(schema_name), '.',
        pg_catalog.quote_ident(its_function), '()');
    IF fires OPERATOR(pg_catalog.<>) 'O' THEN
        EXECUTE pg_catalog.concat(
            'ALTER TABLE ', pg_catalog.quote_ident(schema_name), '.',
            pg_catalog.quote_ident(table_name),
            CASE WHEN fires OPERATOR(pg_catalog.=) 'D' THEN ' DISABLE'
                WHEN fires OPERATOR(pg_catalog.=) 'A' THEN ' ENABLE ALWAYS'
                ELSE ' ENABLE REPLICA' END,
            ' TRIGGER ', pg_catalog.quote_ident(its_name));
    END IF;
END
$pgnotifier$;"""  # noqa: S608 - names are quoted


def make_remove(table: str, name: str) -> str:
    """Return the statement that removes a trigger, and its function: see `make_create`."""
    return f"""DO $pgnotifier$
DECLARE
    its_table pg_catalog.regclass := pg_catalog.to_regclass({literal(table)});
    its_name pg_catalog.name := {literal(name)};
{_DECLARED}BEGIN
    SELECT n.nspname, c.relname INTO schema_name, table_name
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.oid OPERATOR(pg_catalog.=) its_table;
{_DROP}END
$pgnotifier$;"""  # noqa: S608 - names are quoted


FIND_ORPHANS = f"""
SELECT p.oid, n.nspname, p.proname
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
WHERE pg_catalog.starts_with(p.prosrc, '{ORIGIN.strip()}')
AND p.prorettype OPERATOR(pg_catalog.=) 'pg_catalog.trigger'::pg_catalog.regtype
AND pg_catalog.pg_has_role(p.proowner, 'USAGE')
AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_trigger t WHERE t.tgfoid OPERATOR(pg_catalog.=) p.oid
)
"""  # noqa: S608 - a constant
"""Finds our functions that aren't called by a trigger, and that this role may drop."""

FIND_SOURCE = """
SELECT p.prosrc FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
WHERE t.tgrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s::pg_catalog.text)
AND t.tgname OPERATOR(pg_catalog.=) %s::pg_catalog.name
"""
"""Finds the source of the function that a table's trigger calls."""

FIND_KIND = """SELECT c.relkind::pg_catalog.text FROM pg_catalog.pg_class c
WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s::pg_catalog.text)"""
"""Finds of what kind a table is, if it exists."""

_DECLARED = """    its_schema pg_catalog.oid;
    schema_name pg_catalog.text;
    table_name pg_catalog.text;
    former pg_catalog.oid;
    fires pg_catalog.text;
    dropping pg_catalog.text;
    kind pg_catalog.text;
"""

_DROP = f"""    SELECT t.tgfoid, t.tgenabled INTO former, fires FROM pg_catalog.pg_trigger t
    WHERE t.tgrelid OPERATOR(pg_catalog.=) its_table
    AND t.tgname OPERATOR(pg_catalog.=) its_name;
    IF FOUND THEN
        EXECUTE pg_catalog.concat(
            'DROP TRIGGER ', pg_catalog.quote_ident(its_name), ' ON ',
            pg_catalog.quote_ident(schema_name), '.', pg_catalog.quote_ident(table_name));
        SELECT pg_catalog.concat(
            'DROP FUNCTION ', pg_catalog.quote_ident(n.nspname), '.',
            pg_catalog.quote_ident(p.proname), '()')
        INTO dropping FROM ({FIND_ORPHANS.strip()}) mine
        JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) mine.oid
        JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
        WHERE p.oid OPERATOR(pg_catalog.=) former;
        IF dropping IS NOT NULL THEN
            EXECUTE dropping;
        END IF;
    END IF;
"""  # noqa: S608 - a constant


# --- names and literals ---


def quote(name: str) -> str:
    """Return a name as an identifier, without `$` and `%`: see `_escape`."""
    if not _ESCAPED.intersection(name):
        return '"' + name.replace('"', '""') + '"'
    return 'U&"' + _escape(name, '"', "\\{:04x}") + '"'


def literal(text: str) -> str:
    """Return a text as a literal, without `$` and `%`: see `_escape`.

    The literal doesn't depend on `standard_conforming_strings` of the session in which a trigger
    runs: backslashes are only used in `E''`, because `U&''` is an error if the setting is off.
    https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-STRINGS-ESCAPE
    """
    if "\\" not in text and not _ESCAPED.intersection(text):
        return "'" + text.replace("'", "''") + "'"
    return "E'" + _escape(text, "'", "\\u{:04x}") + "'"


_ESCAPED = frozenset("$%")


def _escape(text: str, mark: str, escape: str) -> str:
    """Escape a text, including `$` and `%`.

    `$` could end a dollar-quoted string. Django and psycopg treat `%` as a placeholder in some
    statements, but not in others.
    """
    escaped = text.replace("\\", "\\\\").replace(mark, mark * 2)
    for one in sorted(_ESCAPED):
        escaped = escaped.replace(one, escape.format(ord(one)))
    return escaped
