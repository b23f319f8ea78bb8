"""Write the function of a trigger that is executed for each row.

All of it names types, functions and operators with their schema, and the functions set their own
search_path. Otherwise, anybody who may create objects in a schema of the path could make everybody
who changes a row run their code:
https://wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pgnotifier._log import composing
from pgnotifier._triggers.quoting import literal, quote
from pgnotifier.payload import MAX_PAYLOAD_BYTES

VARIABLES = (
    ("changed", "pg_catalog.text[] := '{}'"),
    ("head", "pg_catalog.jsonb"),
    ("whole", "pg_catalog.jsonb"),
    ("payload", "pg_catalog.text"),
)

TRUNCATED = "OPERATOR(pg_catalog.||) '{\"truncated\": true}'::pg_catalog.jsonb"
OTHERS = "EXCEPTION WHEN OTHERS OR ASSERT_FAILURE THEN"  # OTHERS doesn't include that
MISMATCH = "(SQLSTATE OPERATOR(pg_catalog.=) '42804')"  # datatype_mismatch
FAILED = "'pgnotifier: ', TG_NAME, ' notifies of a change without its values: ', SQLERRM"

_KEY_TEXT = "(head OPERATOR(pg_catalog.->>) 'pk'::pg_catalog.text)"
_PAIRS = 40
"""How many pairs to pass to `jsonb_build_object`: functions have at most 100 arguments."""


@dataclass(frozen=True, slots=True)
class RowBody:
    """What the function of a trigger does for a row.

    Attributes:
        channel: The channel to notify.
        identity: What the payload says first, as arguments of `jsonb_build_object`.
        old_key: An expression for the primary key of the old row.
        new_key: The same for the new row.
        watched: Whether an update counts if any column has changed, or which columns; False to
            leave updates alone; None if each update that changes something counts, and the payload
            doesn't say what.
        compared: What compares all columns one by one, for `watched=True`.
        values: The values to send: an expression for "old" and one for "new", if they are wanted.
        durable: Whether to publish to the log.
        context: Whether the variable `context` has more to send.
        condition: SQL that decides whether the change of a row counts.
    """

    channel: str
    identity: str
    old_key: str
    new_key: str
    watched: bool | Sequence[str] | None
    compared: Iterable[str] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    durable: bool = False
    context: bool = False
    condition: str | None = None


def row_body(row: RowBody) -> str:
    """Return the statements of the trigger's function, for PL/pgSQL.

    A change of a row never fails because of its notification. If making the payload fails (a user's
    cast raises an error, a value is too large for jsonb), the payload is sent without values. The
    block that catches the error costs a subtransaction, but that doesn't get an id. A durable
    trigger fails if it can't publish at all.

    A session keeps the plan of `NEW.column` with the type that the column had. After an ALTER TABLE
    that has changed the type, that is an error; the second attempt then has a new plan.
    """
    minimal = f"{row.identity}, 'operation', pg_catalog.lower(TG_OP), 'pk', NULL, 'truncated', true"
    unchanged = "(head OPERATOR(pg_catalog.-) 'changed'::pg_catalog.text)"
    too_long = f"pg_catalog.octet_length(payload) OPERATOR(pg_catalog.>) {most_bytes(row.durable)}"
    return "\n".join(
        [
            "FOR attempt IN 1..2 LOOP BEGIN",
            *_begin_payload(row),
            *_check_condition(row),
            *_find_changes(row),
            "    whole := head;",
            *_add_values(row),
            "    payload := whole::pg_catalog.text;",
            f"    IF {too_long} THEN",
            f"        payload := (head {TRUNCATED})::pg_catalog.text;",
            "    END IF;",
            f"    IF {too_long} THEN  -- so many columns",
            f"        payload := ({unchanged} {TRUNCATED})::pg_catalog.text;",
            "    END IF;",
            *_leave_context_out(row, too_long),
            "    EXIT;",
            OTHERS,
            f"    IF {MISMATCH} AND (attempt OPERATOR(pg_catalog.=) 1) THEN",
            "        DISCARD PLANS;",
            "        changed := '{}';",
            "    ELSE",
            f"        RAISE WARNING USING MESSAGE = pg_catalog.concat({FAILED});",
            f"        payload := (head {TRUNCATED})::pg_catalog.text;",
            "        EXIT;",
            "    END IF;",
            "END; END LOOP;",
            f"IF payload IS NULL OR {too_long} THEN  -- so long a key",
            f"    payload := pg_catalog.jsonb_build_object({minimal})::pg_catalog.text;",
            "END IF;",
            *deliver(row.channel, row.durable, _KEY_TEXT),
            "RETURN NULL;",
        ]
    )


def most_bytes(durable: bool) -> int:
    """Return how long a payload can be."""
    return composing.MAX_PAYLOAD_BYTES if durable else MAX_PAYLOAD_BYTES


def deliver(channel: str, durable: bool, key: str) -> Iterable[str]:
    """Yield the statements that send the variable `payload`, or publish it with a key."""
    return _publish(channel, key) if durable else _send(channel)


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


def _publish(channel: str, key: str) -> Iterable[str]:
    # The change of the row fails if this does: that is what durable means. Whoever changes a row
    # has locked it, so that the entries of one primary key are in the order of its changes.
    size = f"pg_catalog.octet_length({key}) OPERATOR(pg_catalog.>) {composing.MAX_KEY_BYTES}"
    yield "INSERT INTO pgnotifier.log (channel, key, payload) VALUES ("
    yield f"    {literal(channel)},"
    yield f"    CASE WHEN {size} THEN pg_catalog.md5{key} ELSE {key} END,"
    yield "    payload"
    yield ");"


def _begin_payload(row: RowBody) -> Iterable[str]:
    yield "    head := pg_catalog.jsonb_build_object("
    yield f"        {row.identity},"
    yield "        'operation', pg_catalog.lower(TG_OP),"
    yield f"        'pk', CASE WHEN {is_operation('DELETE')} THEN {row.old_key}"
    yield f"                   ELSE {row.new_key} END"
    yield f"    ){' OPERATOR(pg_catalog.||) context' if row.context else ''};"


def _check_condition(row: RowBody) -> Iterable[str]:
    if row.condition is not None:  # on lines of its own, as it may end with a comment
        yield "    IF (("
        yield row.condition
        yield "    )) IS NOT TRUE THEN"
        yield "        RETURN NULL;"
        yield "    END IF;"


def _find_changes(row: RowBody) -> Iterable[str]:
    # Compare rows by their bytes (`*<>`): a type may have no `=`, or one that another user made.
    # https://www.postgresql.org/docs/current/functions-comparisons.html#COMPOSITE-TYPE-COMPARISON
    if row.watched is False:
        return
    yield f"    IF {is_operation('UPDATE')} THEN"
    if row.watched is True or row.watched is None:
        yield "        IF NEW OPERATOR(pg_catalog.*=) OLD THEN"
        yield "            RETURN NULL;"
        yield "        END IF;"
    if row.watched is None:
        yield "    END IF;"
        return
    if row.watched is True:  # find the columns each time, to include those that are added later
        yield "        changed := ARRAY("
        yield "            SELECT n.key FROM pg_catalog.jsonb_each(pg_catalog.to_jsonb(NEW)) n"
        yield "            JOIN pg_catalog.jsonb_each(pg_catalog.to_jsonb(OLD)) o"
        yield "            ON o.key OPERATOR(pg_catalog.=) n.key"
        yield "            WHERE n.value OPERATOR(pg_catalog.<>) o.value ORDER BY n.key);"
        yield "        IF pg_catalog.cardinality(changed) OPERATOR(pg_catalog.=) 0 THEN"
        # They may be equal as JSON, although they differ: NULL and JSON's null, for example.
        yield from (f"            {line}" for line in row.compared)
        yield "        END IF;"
    else:
        yield from (f"        {line}" for line in compare_columns(row.watched))
    yield "        IF pg_catalog.cardinality(changed) OPERATOR(pg_catalog.=) 0 THEN"
    yield "            RETURN NULL;"
    yield "        END IF;"
    yield (
        "        head := head OPERATOR(pg_catalog.||) "
        "pg_catalog.jsonb_build_object('changed', changed);"
    )
    yield "    END IF;"


def compare_columns(columns: Iterable[str]) -> Iterable[str]:
    """Yield statements that add the names of columns that differ to `changed`."""
    for column in columns:
        new, old = (f"ROW({row}.{quote(column)})::pg_catalog.record" for row in ("NEW", "OLD"))
        yield f"IF {new} OPERATOR(pg_catalog.*<>) {old} THEN"
        added = f"{literal(column)}::pg_catalog.text"
        yield f"    changed := pg_catalog.array_append(changed, {added});"
        yield "END IF;"


def _add_values(row: RowBody) -> Iterable[str]:
    for side, without in (("old", "INSERT"), ("new", "DELETE")):
        if side in row.values:
            yield f"    IF NOT {is_operation(without)} THEN"
            yield "        whole := whole OPERATOR(pg_catalog.||)"
            yield f"            pg_catalog.jsonb_build_object('{side}', {row.values[side]});"
            yield "    END IF;"


def _leave_context_out(row: RowBody, too_long: str) -> Iterable[str]:
    if row.context:
        bare = "head OPERATOR(pg_catalog.-) '{changed,context}'::pg_catalog.text[]"
        yield f"    IF {too_long} THEN  -- so long a context"
        yield f"        payload := (({bare}) {TRUNCATED})::pg_catalog.text;"
        yield "    END IF;"


def is_operation(operation: str) -> str:
    """Return a condition: the trigger is executed for INSERT, UPDATE, DELETE or TRUNCATE."""
    return f"(TG_OP OPERATOR(pg_catalog.=) '{operation}')"


def object_of(columns: Sequence[str], row: str) -> str:
    """Return an expression for an object of some columns of a row."""
    built = []
    for at in range(0, max(len(columns), 1), _PAIRS):
        some = columns[at : at + _PAIRS]
        pairs = ", ".join(f"{literal(one)}, {row}.{quote(one)}" for one in some)
        built.append(f"pg_catalog.jsonb_build_object({pairs})")
    return " OPERATOR(pg_catalog.||) ".join(built)
