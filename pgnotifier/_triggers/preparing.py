"""Write the statements that look up and check what a trigger needs of its table."""

from collections.abc import Iterable

from pgnotifier._triggers.declaration import Declaration
from pgnotifier._triggers.quoting import literal
from pgnotifier._triggers.statement_body import NEW_ROWS, OLD_ROWS

ERROR = "PGN01"
"""The SQLSTATE of what is raised here."""

VARIABLES = """    its_key pg_catalog.text[];
    its_identity pg_catalog.text;
    its_old_key pg_catalog.text := 'NULL';
    its_new_key pg_catalog.text := 'NULL';
    its_old_text pg_catalog.text;
    its_new_text pg_catalog.text;
    its_old_ends pg_catalog.text := 'NULL, NULL';
    its_new_ends pg_catalog.text := 'NULL, NULL';
    its_old_order pg_catalog.text;
    its_new_order pg_catalog.text;
    its_old_backwards pg_catalog.text;
    its_new_backwards pg_catalog.text;
    its_same_key pg_catalog.text;
    its_no_old pg_catalog.text;
    its_compared pg_catalog.text;
    its_type pg_catalog.regtype;
    is_child pg_catalog.bool;
    missing pg_catalog.text;
    path pg_catalog.text := pg_catalog.current_setting('search_path');
    probe pg_catalog.refcursor;
"""


def transition_tables(made: Declaration, event: str) -> str:
    """Return the names of the transition tables of a trigger for an event."""
    tables = []
    if event == "delete" or (event == "update" and made.needs_old_rows):
        tables.append(f"OLD TABLE AS {OLD_ROWS}")
    if event != "delete":
        tables.append(f"NEW TABLE AS {NEW_ROWS}")
    return " ".join(tables)


def prepare(made: Declaration) -> str:
    """Return the statements, which raise an error that names the way out."""
    return "".join(
        [
            *_check_table(made),
            *_check_columns(made),
            *_find_key(made),
            *(_check_condition(made) if made.when is not None else ()),
        ]
    )


def _fail(*message: str) -> str:
    """Return a statement that raises an error, of expressions for the parts of its message."""
    said = ", ".join(message)
    return f"RAISE EXCEPTION USING ERRCODE = '{ERROR}', MESSAGE = pg_catalog.concat({said});"


_IS_CHILD = (
    "' is a partition or a child: statements on its parent would not call the trigger. "
    "Create it on the parent, or for each row'"
)
_IS_FOREIGN = "' is a foreign table, without triggers for statements: create it for each row'"
_TABLE = "pg_catalog.quote_ident(schema_name), '.', pg_catalog.quote_ident(table_name)"


def _check_table(made: Declaration) -> Iterable[str]:
    where = "" if made.schema else " on the search_path"
    yield f"""    IF table_name IS NULL THEN
        {_fail(literal(f"there is no table {made.qualified}{where}"))}
    END IF;
    IF kind OPERATOR(pg_catalog.<>) ALL ('{{r,p,f}}'::pg_catalog.text[]) THEN
        {_fail(_TABLE, "' is not a table: create the trigger on the tables that it shows'")}
    END IF;
"""
    if made.durable:
        yield f"""    IF pg_catalog.to_regclass('pgnotifier.log') IS NULL THEN
        {_fail("'this database has no durable log. Run: pgnotifier install'")}
    END IF;
"""
    # Of two that create the same trigger, the second waits, and then finds that of the first.
    yield f"""    IF kind OPERATOR(pg_catalog.<>) 'f' THEN
        EXECUTE pg_catalog.concat(
            'LOCK TABLE ONLY ', {_TABLE}, ' IN SHARE ROW EXCLUSIVE MODE');
    END IF;
    is_child := EXISTS (
        SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid OPERATOR(pg_catalog.=) its_table);
"""
    if made.per == "statement":
        yield f"""    IF is_child THEN
        {_fail(_TABLE, _IS_CHILD)}
    END IF;
    IF kind OPERATOR(pg_catalog.=) 'f' THEN
        {_fail(_TABLE, _IS_FOREIGN)}
    END IF;
"""
    else:
        yield f"""    IF kind OPERATOR(pg_catalog.=) 'r' AND EXISTS (
        SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) its_table
    ) THEN
        RAISE WARNING USING MESSAGE = pg_catalog.concat({_TABLE},
            ' has children, and their rows do not call its trigger: create one on each of them');
    END IF;
"""
    if made.per == "row" and "truncate" in made.on:
        yield f"""    IF kind OPERATOR(pg_catalog.=) 'f' THEN
        {_fail(_TABLE, "' is a foreign table, which is not truncated here: leave truncate out'")}
    END IF;
"""


def _check_columns(made: Declaration) -> Iterable[str]:
    if named := [*dict.fromkeys([*made.columns, *made.key])]:
        yield f"""    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(n), ', ') INTO missing
    FROM pg_catalog.unnest({_array(named)}) AS n
    WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute a
        WHERE a.attrelid OPERATOR(pg_catalog.=) its_table
        AND a.attname OPERATOR(pg_catalog.=) n AND NOT a.attisdropped
        AND a.attnum OPERATOR(pg_catalog.>) 0
    );
    IF missing IS NOT NULL THEN
        {_fail(_TABLE, "' has no column '", "missing")}
    END IF;
"""  # noqa: S608 - names are quoted


def _find_key(made: Declaration) -> Iterable[str]:
    if made.key:
        yield f"    its_key := {_array(made.key)};\n"
    else:
        yield """    its_key := ARRAY(
        SELECT a.attname FROM pg_catalog.pg_index i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[])
            WITH ORDINALITY AS k (attnum, n)
        JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid
        AND a.attnum OPERATOR(pg_catalog.=) k.attnum
        WHERE i.indrelid OPERATOR(pg_catalog.=) its_table AND i.indisprimary
        AND k.n OPERATOR(pg_catalog.<=) i.indnkeyatts
        ORDER BY k.n
    );
"""
    if made.per == "statement" or made.payload == "key":
        ways = "name the columns that identify a row as its key"
        ways += "" if made.per == "statement" else ", or send all values"
        yield f"""    IF pg_catalog.cardinality(its_key) OPERATOR(pg_catalog.=) 0 THEN
        {_fail(_TABLE, literal(f" has no primary key: {ways}"))}
    END IF;
"""
    identity = (
        "'''schema'', ', pg_catalog.quote_literal(schema_name), '::pg_catalog.text, "
        "''table'', ', pg_catalog.quote_literal(table_name), '::pg_catalog.text'"
    )
    yield f"    its_identity := pg_catalog.concat({identity});\n"
    for side in ("old", "new"):
        row = "OLD" if side == "old" else "NEW"
        listed = f"pg_catalog.concat('{row}.', pg_catalog.quote_ident(k))"
        yield f"""    SELECT CASE pg_catalog.count(*) WHEN 0 THEN 'NULL' WHEN 1
            THEN pg_catalog.concat('pg_catalog.to_jsonb(', pg_catalog.max({listed}), ')')
            ELSE pg_catalog.concat('pg_catalog.jsonb_build_array(',
                pg_catalog.string_agg({listed}, ', ' ORDER BY n), ')') END,
        pg_catalog.string_agg({listed}, ', ' ORDER BY n),
        pg_catalog.string_agg(pg_catalog.concat({listed}, ' DESC'), ', ' ORDER BY n)
    INTO its_{side}_key, its_{side}_order, its_{side}_backwards
    FROM pg_catalog.unnest(its_key) WITH ORDINALITY AS u (k, n);
"""  # noqa: S608 - names are quoted
    # Types of users may have no `=` that the function finds: they are compared as JSON.
    same = """pg_catalog.concat(
            CASE WHEN plain THEN 'new.' ELSE 'pg_catalog.to_jsonb(new.' END,
            pg_catalog.quote_ident(k),
            CASE WHEN plain THEN '' ELSE ')' END, ' OPERATOR(pg_catalog.=) ',
            CASE WHEN plain THEN 'old.' ELSE 'pg_catalog.to_jsonb(old.' END,
            pg_catalog.quote_ident(k), CASE WHEN plain THEN '' ELSE ')' END)"""
    yield f"""    SELECT pg_catalog.string_agg({same}, ' AND ' ORDER BY n),
        pg_catalog.string_agg(
            pg_catalog.concat('old.', pg_catalog.quote_ident(k), ' IS NULL'), ' AND ' ORDER BY n)
    INTO its_same_key, its_no_old
    FROM (
        SELECT u.k, u.n, a.atttypid OPERATOR(pg_catalog.=) ANY (
            '{{int2,int4,int8,text,varchar,uuid,numeric,date}}'::pg_catalog.regtype[]) AS plain
        FROM pg_catalog.unnest(its_key) WITH ORDINALITY AS u (k, n)
        JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) its_table
        AND a.attname OPERATOR(pg_catalog.=) u.k
    ) AS keyed;
"""  # noqa: S608 - names are quoted
    # What most keys are has a faster way.
    yield f"""    its_old_text := pg_catalog.concat('(', its_old_key, ')::pg_catalog.text');
    its_new_text := pg_catalog.concat('(', its_new_key, ')::pg_catalog.text');
    IF pg_catalog.cardinality(its_key) OPERATOR(pg_catalog.=) 1 THEN
        SELECT a.atttypid INTO its_type FROM pg_catalog.pg_attribute a
        WHERE a.attrelid OPERATOR(pg_catalog.=) its_table
        AND a.attname OPERATOR(pg_catalog.=) its_key[1];
        IF its_type OPERATOR(pg_catalog.=) ANY ({_INTEGERS}) THEN
            its_old_text := pg_catalog.concat(its_old_order, '::pg_catalog.text');
            its_new_text := pg_catalog.concat(its_new_order, '::pg_catalog.text');
        END IF;
        IF its_type OPERATOR(pg_catalog.=) ANY ({_WITH_ENDS}) THEN
{_ends("old")}{_ends("new")}        END IF;
    END IF;
"""  # noqa: S608 - constants
    if made.per == "row" and made.payload != "key" and not made.columns:
        yield """    SELECT COALESCE(pg_catalog.string_agg(pg_catalog.concat(
        'IF ROW(NEW.', pg_catalog.quote_ident(a.attname),
        ')::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(OLD.', pg_catalog.quote_ident(a.attname),
        ')::pg_catalog.record THEN changed := pg_catalog.array_append(changed, ',
        pg_catalog.quote_literal(a.attname), '::pg_catalog.text); END IF;'
    ), ' ' ORDER BY a.attnum), '') INTO its_compared
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid OPERATOR(pg_catalog.=) its_table AND NOT a.attisdropped
    AND a.attnum OPERATOR(pg_catalog.>) 0;
"""


_INTEGERS = "'{int2,int4,int8}'::pg_catalog.regtype[]"
_WITH_ENDS = "'{int2,int4,int8,numeric,text,date,timestamp,timestamptz}'::pg_catalog.regtype[]"


def _ends(side: str) -> str:
    """Return a statement that sets the aggregates for the first key and the last one."""
    parts = ", ".join(
        f"'{comma}pg_catalog.to_jsonb(pg_catalog.{end}(', its_{side}_order, '))'"
        for comma, end in (("", "min"), (", ", "max"))
    )
    return f"            its_{side}_ends := pg_catalog.concat({parts});\n"


def _check_condition(made: Declaration) -> Iterable[str]:
    # A cursor takes one query alone. The plan is made, but no row is read.
    null = f"'(SELECT (NULL::', {_TABLE}, ').*)'"
    query = (
        f"pg_catalog.concat('SELECT FROM ', {null}, ' AS new, ', {null}, ' AS old WHERE ((', "
        f"pg_catalog.chr(10), {literal(made.when or '')}, pg_catalog.chr(10), '))')"
    )
    yield f"""    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    OPEN probe FOR EXECUTE {query};
    CLOSE probe;
    PERFORM pg_catalog.set_config('search_path', path, true);
"""


def _array(names: Iterable[str]) -> str:
    return f"ARRAY[{', '.join(literal(one) for one in names)}]::pg_catalog.text[]"
