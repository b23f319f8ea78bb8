"""No object that an attacker creates in a schema of the search_path is ever executed.

https://wiki.postgresql.org/wiki/A_Guide_to_CVE-2018-1058:_Protect_Your_Search_Path
"""

import ast
import re
import secrets
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import pgnotifier
from pgnotifier import triggers
from pgnotifier._connection import publisher, sending_texts, session, session_settings
from pgnotifier._connection.parameters import Parameters
from pgnotifier._durable import ahead, leftovers, log_session, moves, news, pooling, upkeep
from pgnotifier._inquiry import answering, asking, marks
from pgnotifier._listener import pause, queue_usage, reader_connection
from pgnotifier._listener.leader_lock import TERMINATE, Standby
from pgnotifier._log import (
    dead_letters,
    done,
    following,
    guard,
    installing,
    outbox_queries,
    overview,
    positions,
    publishing,
    reclaim,
    references,
    versions,
)
from pgnotifier._triggers import installed
from pgnotifier.cli.doctor import activity, arriving, durable_log, server, spelling
from pgnotifier.contrib.celery import once_connections
from pgnotifier.demo import stage
from pgnotifier.triggers import Trigger

from .waiting import eventually

pytestmark = pytest.mark.usefixtures("quick")

PACKAGE = Path(pgnotifier.__file__).parent

STATEMENT = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|ALTER|DROP|SET|NOTIFY|DO|CALL|SHOW|EXPLAIN|MERGE|RESET)\s"
)

ADVANCE_AND_SAVE = """
SELECT state FROM pgnotifier.advance(
    pg_catalog.pg_backend_pid(), 1, (SELECT pg_catalog.max(n) FROM pgnotifier.position), '3:3:', 9,
    true, %s, %s, true, '3:3:', '900:900:', 7, true
)
"""

CONTAINED = {
    "_connection/connecting.py": 1,  # SET client_encoding
    "_connection/sending_texts.py": 1,
    "_connection/publisher.py": 1,
    "_connection/session.py": 1,  # NOTIFY
    "_connection/session_settings.py": 1,
    "_durable/ahead.py": 1,
    "_durable/leftovers.py": 2,
    "_durable/log_session.py": 16,
    "_durable/moves.py": 1,
    "_durable/news.py": 1,
    "_durable/pooling.py": 1,
    "_durable/upkeep.py": 2,
    "_log/dead_letters.py": 6,
    "_log/done.py": 3,
    "_log/following.py": 8,
    "_log/guard.py": 4,
    "_log/installing.py": 5,
    "_log/outbox_queries.py": 6,
    "_log/outboxes.py": 1,
    "_log/overview.py": 4,
    "_log/positions.py": 6,  # one is a NOTIFY
    "_log/publishing.py": 6,
    "_log/reclaim.py": 1,
    "_log/references.py": 1,
    "_log/versions.py": 4,
    "_inquiry/answering.py": 2,
    "_inquiry/asking.py": 1,
    "_inquiry/marks.py": 3,
    "cli/doctor/activity.py": 3,
    "cli/doctor/arriving.py": 2,
    "cli/doctor/durable_log.py": 2,
    "cli/doctor/server.py": 5,
    "cli/doctor/spelling.py": 1,
    "cli/target.py": 1,  # RESET
    "cli/trigger.py": 1,  # RESET
    "console/observing.py": 1,  # RESET
    "_listener/leader_lock.py": 3,
    "_listener/heartbeat.py": 3,
    "_listener/pause.py": 2,
    "_listener/reader_connection.py": 1,
    "_listener/queue_usage.py": 2,
    "_triggers/creating.py": 3,
    "_triggers/installed.py": 2,
    "_triggers/preparing.py": 4,
    "_triggers/row_body.py": 3,
    "_triggers/statement_body.py": 3,
    "triggers.py": 1,
    "demo/__init__.py": 3,  # shown to the user
    "demo/scenario.py": 3,
    "demo/stage.py": 3,
    "contrib/celery/once_connections.py": 1,
    "testing/contract/delivery.py": 1,
    "testing/contract/setup.py": 1,
    "testing/databases.py": 3,
    "testing/contract/durable.py": 1,
    "testing/postgres.py": 3,
}
"""How many statements each file has. If you add one, add it to `EXECUTED`, too, unless nothing in
it is looked up by the search_path."""

ENQUEUE = """
WITH opened AS MATERIALIZED (SELECT pgnotifier.open_outbox('a', 'pgnotifier:celery:default'))
SELECT pgnotifier.enqueue('a.b', countdown => '1h', expires => '2030-01-01Z',
    kwargs => '{"n": null}', headers => '{}') FROM opened
"""
ENQUEUE_JOB = """
WITH opened AS MATERIALIZED (SELECT pgnotifier.open_outbox('a', 'pgnotifier:rq:default'))
SELECT pgnotifier.enqueue_job('a.b', '[1]', at => '2030-01-01Z', ttl => 5) FROM opened
"""

EXECUTED = {
    "setup": (session_settings.setup_query(1).encode(), ()),
    "usage": (queue_usage.USAGE, ()),
    "oldest": (queue_usage.OLDEST, ()),
    "standby": (Standby("shop").query, ()),
    "accompany": (Standby("shop").accompany, ()),
    "mark": (marks.MARK, ()),
    "show asking": (marks._ASK, ()),
    "marked": (marks._FIND, marks._HALVES),
    "own session": (asking._SESSION, ()),
    "sender": (answering._SENDER, (1, "1700000000.5")),
    "terminate": (TERMINATE % 0, ()),
    "identity": (pause.IDENTITY, ()),
    "look": (pause._LOOK % (b"1700000000.5", b"1", b"1700000000.5"), ()),
    "long row": (reader_connection.LONG_ROW, ()),
    "notify": (publisher._NOTIFY, ("orders", "1")),
    "notify all": (sending_texts._NOTIFY_ALL, ("orders", ["1", "2"])),
    "beat": (session.notify_query("orders", "1"), ()),
    "listen": (session.listen_query(["orders"]), ()),
    "unlisten": (session.listen_query(["orders"], "UNLISTEN"), ()),
    "proof": (b"SELECT 1", ()),
    "encoding": (b"SET client_encoding TO UTF8", ()),
    "find": (stage.FIND_SESSIONS, ("pgnotifier-demo",)),
    "sessions": (activity.SESSIONS, ("doctor",)),
    "old transactions": (activity.OLD, ("300 s",)),
    "session's pid": (arriving.PID, ()),
    "may notify": (arriving.MAY_NOTIFY, ()),
    "has the log": (durable_log.IS_THERE, ()),
    "lacking rights": (durable_log.LACKING, (["advance"],)),
    "reset": (once_connections._RESET, ()),
    "in recovery": (server.IN_RECOVERY, ()),
    "clock": (server.CLOCK, ()),
    "configured": (server.CONFIGURED, ()),
    "effective": (server.EFFECTIVE, (["jit"],)),
    "keepalives": (server.KEEPALIVES, ()),
    "functions": (spelling.FUNCTIONS, ()),
    "triggers": (installed.FIND, ()),
    "orphans of triggers": (installed.FIND_ORPHANS, ()),
}

SET_ASIDE = """
WITH opened AS MATERIALIZED (SELECT pgnotifier.open_outbox('a', 'pgnotifier:celery:default'))
SELECT s.made FROM opened, pgnotifier.publish('pgnotifier:celery:default', '1') AS made (id),
    LATERAL pgnotifier.set_aside(2 + (made.id * 0)::int, ARRAY[made.id], 'no') AS s
"""
ON_LOG = {
    "latest session": (leftovers._IDENTITY, ()),
    "end of a leftover": (leftovers._END, (0, "0")),
    "is standby": (guard._IS_STANDBY, ()),
    "repeatable": (guard._REPEATABLE, ()),
    "begin": (versions.BEGIN, ()),
    "installed": (versions._CHECK.format(since=1), ()),
    "owner": (installing._OWNER, ()),
    "one by one": (installing._ONE_BY_ONE, ()),
    "version": (installing._VERSION, ()),
    "subscribe": (positions._SUBSCRIBE, ("a", "orders", "now", None, None)),
    "subscribe at an id": (positions._SUBSCRIBE, ("b", "orders", "id", 1, None)),
    "subscribe at a time": (positions._SUBSCRIBE, ("c", "orders", "time", None, "2026-01-01")),
    "seek": (positions._SEEK, ("sub", "orders", "oldest", None, None)),
    "forget": (positions._FORGET, ("sub", "orders")),
    "names of subscriptions": (positions._NAMES, ("orders",)),
    "hold": ("SELECT pgnotifier.hold(1)", ()),
    "reclaim": (reclaim._RECLAIM, ()),
    "once": (done.ONCE, ("task",)),
    "once again": (done.ONCE, ("task",)),
    "reclaim what is done": (done.RECLAIM_DONE, ()),
    "keep what is done": (done.KEEP_DONE, ("14 days",)),
    "limit lag": (positions._LIMIT_LAG, (1, 5, None, "1 day")),
    "configure": (installing._CONFIGURE, ("1 day", 1_000_000)),
    "note reader": (upkeep._NOTE_READER, ([1], [0.5])),
    "note keys": (upkeep._NOTE_KEYS, (1, [b"low", None], [0.5, 0.1])),
    "find unread": (log_session._FIND_UNREAD, ()),
    "take gaps": (log_session._TAKE_GAPS, (1,)),
    "drop gaps": (log_session._DROP_GAPS, ([1],)),
    "fail": (
        dead_letters._FAIL,
        (1, 1, "2026-01-01", "orders", None, "payload", "error", None, 0.0, False),
    ),
    "due": (dead_letters._DUE, (1, 10)),
    "fail again": (dead_letters._FAIL_AGAIN, (1, "error", None, 0.0, True)),
    "retry": (dead_letters._RETRY, ([1],)),
    "drop": (dead_letters._DROP, ([1],)),
    "find": (
        dead_letters._FIND,
        {"n": 1, "name": "sub", "channel": "orders", "all": True, "limit": 10},
    ),
    "server's process": (log_session._PID, ()),
    "advance": (
        "SELECT state FROM pgnotifier.advance(pg_catalog.pg_backend_pid(), 1, 1, '3:3:', 9, false)",
        (),
    ),
    "pooled": (
        log_session._ADVANCE,
        (0, 1, None, None, 10, False, None, 0, False, None, None, 0, False),
    ),
    "advance and save": (ADVANCE_AND_SAVE, ("5:900:5,7", 9)),
    "advance to the next window": (ADVANCE_AND_SAVE, (None, 0)),
    "hold on": (log_session._HOLD, (1, 1)),
    "echo": (pooling._ECHO.format("a"), ()),
    "let go": (log_session._UNLOCK, (log_session.LOCKS, 1)),
    "window": ("SELECT n FROM pgnotifier.take(1, 1, '3:3:')", ()),
    "read": ("SELECT id FROM pgnotifier.read('orders', '3:3:', '5:900:5,7', 0, 10)", ()),
    "move": (log_session._MOVE, (True, 1, 1, "3:3:", "900:900:", 7)),
    "wait": (log_session._WAIT, ()),
    "next retry": (log_session._NEXT_RETRY, (1,)),
    "figures": (log_session._FIGURES, ([1], [1])),
    "news": (news._FIND_NEWS, {"since": "3:900:5", "subs": [1], "known": [1]}),
    "moves": (moves._FIND_MOVED, {"subs": [1], "known": [1]}),
    "read ahead": (
        ahead._READ,
        {
            "sub": 1,
            "known": 1,
            "top": "900",
            "bottom": "5",
            "done": "3:900:5",
            "target": None,
            "last_id": 0,
            "long": 40,
            "most": 11,
            "bytes": 1000,
        },
    ),
    "sleep": (log_session._DOZE, ()),
    "wake": (log_session._WAKE, (True,)),
    "offer": (log_session._OFFER, ()),
    "subscribed": (stage.SUBSCRIBED, ()),
    "list positions": (overview._POSITIONS, ()),
    "slots": (overview._SLOTS, ()),
    "limits": (overview._LIMITS, ()),
    "lock holders": (overview._LOCK_HOLDERS, ()),
    "publish": ("SELECT pgnotifier.publish('orders', '1')", ()),
    "notify": ("SELECT pgnotifier.publish('orders', '1', notify => true)", ()),
    "notify of JSON": ("SELECT pgnotifier.publish('orders', '{}'::jsonb, notify => true)", ()),
    "refer": ("SELECT pgnotifier.publish('orders', pg_catalog.repeat('x', 8000), 'k', true)", ()),
    "find a payload": (references._FIND, ("900", 1, b"orders")),
    "notifying": (publishing._NOTIFYING, ("orders", "1", None)),
    "open an outbox": ("SELECT pgnotifier.open_outbox('a', 'pgnotifier:celery:default')", ()),
    "enqueue": (ENQUEUE, ()),
    "enqueue a job": (ENQUEUE_JOB, ()),
    "outboxes": (outbox_queries._OUTBOXES, ()),
    "count what waits": (outbox_queries._COUNT, (1, 10)),
    "count what has failed": (outbox_queries._COUNT_FAILED, (1,)),
    "rates of queues": (outbox_queries._RATES, (1,)),
    "list what waits": (outbox_queries._LIST, (1, 10, False, "{1}", "a/b", "1", True)),
    "list what has failed": (outbox_queries._LIST, (1, 10, True, None, "low", "1", True)),
    "set aside": (SET_ASIDE, ()),
    "clock": (following._CLOCK, ()),
    "is a copy": (following._IS_COPY, ()),
    "find a tick by id": (following._FIND_TICK, (1, None)),
    "find a tick by time": (following._FIND_TICK, (None, "2020-01-01Z")),
    "look": (following._LOOK, ()),
    "by index": (following._BY_INDEX, ()),
    "find a target": (following._FIND_TARGET, ("1", "1")),
    "follow": (following._READ, ("orders", "3:3:", "5:900:5,7", 0, 10, 1000)),
    "first entry": (following._FIRST, ()),
    "run": (log_session._RUN, ()),
    "doze": ("SELECT pgnotifier.doze()", ()),
    "awake": ("SELECT pgnotifier.awake()", ()),
}
"""Statements that need the durable log."""

FUNCTIONS = {
    "set_config": ("text, text, boolean", "text", "'x'"),
    "pg_backend_pid": ("", "int", "1"),
    "pg_notify": ("text, text", "void", ""),
    "format": ("text, text", "text", "'SELECT 1'"),
    "concat_ws": ("text, xid8, bigint, text", "text", "'x'"),
    "pg_try_advisory_lock": ("bigint", "boolean", "true"),
    "pg_try_advisory_lock_shared": ("bigint", "boolean", "true"),
    "pg_notification_queue_usage": ("", "float8", "0"),
    "pg_postmaster_start_time": ("", "timestamptz", "NULL"),
    "pg_terminate_backend": ("int", "boolean", "true"),
    "current_database": ("", "name", "'x'"),
    "clock_timestamp": ("", "timestamptz", "NULL"),
    "pg_is_in_recovery": ("", "boolean", "false"),
    "current_setting": ("text", "text", "'x'"),
    "starts_with": ("text, text", "boolean", "true"),
    "has_function_privilege": ("oid, text", "boolean", "true"),
    "jsonb_typeof": ("jsonb", "text", "'array'"),
    "to_json": ("text", "json", "'{}'"),
    "to_char": ("timestamp, text", "text", "'x'"),
    "age": ("xid", "int", "1"),
    "array_to_string": ("text[], text", "text", "'x'"),
    "gen_random_uuid": ("", "uuid", "NULL"),
    "pg_advisory_xact_lock": ("bigint", "void", ""),
    "pg_get_userbyid": ("oid", "name", "'x'"),
    "pg_current_snapshot": ("", "pg_snapshot", "'1:1:'"),
    "pg_current_xact_id": ("", "xid8", "'1'"),
    "pg_snapshot_xmax": ("pg_snapshot", "xid8", "'1'"),
    "pg_visible_in_snapshot": ("xid8, pg_snapshot", "boolean", "true"),
    "pg_sequence_last_value": ("regclass", "bigint", "1"),
    "setval": ("regclass, bigint", "bigint", "1"),
    "random": ("", "float8", "0"),
    "octet_length": ("text", "int", "1"),
    "convert_to": ("text, name", "bytea", "NULL"),
    "date_part": ("text, interval", "float8", "1"),
    "extract": ("text, interval", "numeric", "1"),
}
OPERATORS = {
    "=": [
        "text",
        "name",
        "int",
        "bigint",
        "oid",
        "smallint",
        "boolean",
        "timestamptz",
        "bytea",
        "xid8",
    ],
    "<>": ["text", "int", "name"],
    ">": ["int"],
    "-": ["timestamptz"],
}
MIXED = [("oid", "bigint"), ("oid", "int"), ("smallint", "int"), ("text", "name"), ("name", "text")]
RELATIONS = ["pg_settings", "pg_locks", "pg_stat_activity"]


def statements(path):
    """Yield the SQL statements in a Python file."""
    nodes = [*ast.walk(ast.parse(path.read_text()))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        text = node.value
        if isinstance(text, bytes):
            text = text.decode("latin1")
        if isinstance(text, str) and STATEMENT.match(text):
            yield text


def all_statements():
    """Return the statements of the core, by file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("contrib/django/") and (texts := [*statements(path)]):
            found[name] = texts
    return found


def unqualified(statement):
    """Return the names and operators in a statement that are looked up by the search_path."""
    bare = re.sub(
        r"'[^']*'|OPERATOR\(pg_catalog\.\S+?\)|::pg_catalog\.\w+(?:\[\])?|\bpgnotifier\.\w+|\{\w*\}|%[sd]"
        r"|:=|\bFOR \w+ IN\b",
        " ",
        statement,
    )
    functions = re.findall(r"(?<![\w.])([a-z]\w*)\(", bare)
    operators = re.findall(r"[=<>+\-/|~]+|\b(?:IN|BETWEEN|LIKE|USING)\b", bare)
    relations = re.findall(r"\b(?:FROM|JOIN)\s+((?!pg_catalog\.)pg_\w+|[a-z]\w+)(?!\()", bare)
    columns = {"backend_start"}  # of EXTRACT(… FROM column)
    relations = [one for one in relations if one != "pg_catalog" and one not in columns]
    return [*functions, *operators, *relations]


def test_all_statements_are_known():
    """Each file has exactly the known number of statements, so that a new one is noticed."""
    assert {name: len(texts) for name, texts in all_statements().items()} == CONTAINED


def test_all_names_are_qualified():
    """No statement of the core looks anything up by the search_path."""
    found = {}
    for name, texts in all_statements().items():
        for text in texts:
            if names := unqualified(text):
                found[name, " ".join(text.split())[:40]] = names
    # Users see the demo's statements, on a table in its own server.
    assert {name for name, _ in found} <= {"demo/__init__.py", "demo/scenario.py"}


def test_finding_them():
    """`unqualified` finds names that aren't qualified."""
    assert unqualified("SELECT now() FROM pg_catalog.pg_locks") == ["now"]
    assert unqualified("SELECT 1 FROM pg_locks WHERE a = 1") == ["=", "pg_locks"]
    assert unqualified("SELECT 1 FROM pg_catalog.a JOIN pg_catalog.b USING (pid)") == ["USING"]


@contextmanager
def victim_in(dsn):
    """Yield the conninfo string of a superuser with a search_path that begins with the traps."""
    name = f"victim_{secrets.token_hex(4)}"
    mallory = f"mallory_{secrets.token_hex(4)}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN").format(sql.Identifier(name)))
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(mallory)))
        admin.execute(
            sql.SQL("ALTER ROLE {} SET search_path = public, pg_catalog").format(
                sql.Identifier(name)
            )
        )
        admin.execute("GRANT CREATE ON SCHEMA public TO public")
        admin.execute("CREATE TABLE public.trapped (who text, what text)")
        admin.execute("GRANT ALL ON public.trapped TO public")
    with psycopg.connect(make_conninfo(dsn, user=mallory), autocommit=True) as session:
        lay_traps(session)
    try:
        yield make_conninfo(dsn, user=name)
    finally:
        with psycopg.connect(dsn, autocommit=True) as admin:
            for role in (mallory, name):
                admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def victim(pgnotifier_dsn):
    """Yield the conninfo string of a victim in the test's database."""
    with victim_in(pgnotifier_dsn) as victim:
        yield victim


@pytest.fixture(scope="module")
def victim_with_log(pgnotifier_postgres):
    """Yield the name of a database with the traps and the log, and the name of the victim there.

    What was trapped while the log was installed is in that database, and in each copy.
    """
    name = f"trapped_{secrets.token_hex(4)}"
    dsn = pgnotifier_postgres.create_database(name)
    with victim_in(dsn) as victim:
        with psycopg.connect(victim) as session:
            session.execute(installing.script().encode())
        with psycopg.connect(victim, autocommit=True) as session:
            session.execute(
                "SELECT pgnotifier.subscribe('sub', 'orders'), pgnotifier.publish('orders', '1')"
            )
        yield name, conninfo_to_dict(victim)["user"]
    pgnotifier_postgres.drop_database(name)


def lay_traps(mallory):
    """Create functions, operators, relations and types with the names of PostgreSQL's own."""
    trap = (
        "CREATE FUNCTION public.{name}({args}) RETURNS {returns} LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO public.trapped VALUES (current_user, '{what}'); RETURN {value}; END $$"
    )

    def lay(name, args, returns, value, what=None):
        mallory.execute(
            trap.format(name=name, args=args, returns=returns, value=value, what=what or name)
        )

    for name, (args, returns, value) in FUNCTIONS.items():
        lay(name, args, returns, value)
    lay("pg_notify", "unknown_text text, payload varchar", "void", "", "pg_notify of varchar")
    lay("pg_try_advisory_lock", "key int", "boolean", "true")
    pairs = [(sign, one, one) for sign, types in OPERATORS.items() for one in types]
    pairs += [("=", *both) for both in MIXED]
    for number, (sign, left, right) in enumerate(pairs):
        returns, value = ("interval", "NULL") if sign == "-" else ("boolean", "true")
        lay(f"operate_{number}", f"a {left}, b {right}", returns, value, f"{left} {sign} {right}")
        mallory.execute(
            f"CREATE OPERATOR public.{sign} (FUNCTION = public.operate_{number},"
            f" LEFTARG = {left}, RIGHTARG = {right})"
        )
    lay("spring", "", "text", "'x'", "a relation")
    for name in RELATIONS:
        columns = mallory.execute(f"SELECT * FROM pg_catalog.{name} LIMIT 0").description
        listed = ", ".join(f"public.spring()::text AS {one.name}" for one in columns)
        mallory.execute(f"CREATE VIEW public.{name} AS SELECT {listed}")
    for name in ("text", "int4", "name"):
        mallory.execute(f"CREATE TYPE public.{name} AS (trapped boolean)")


def trapped(dsn):
    """Return which traps have been executed, and forget them."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        return admin.execute("DELETE FROM public.trapped RETURNING what").fetchall()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_try_advisory_lock(1)",
        "SELECT FROM pg_catalog.pg_class WHERE relname = 'x'",
        "SELECT FROM pg_locks",
        "SELECT pg_notify('a', 'b')",
    ],
)
def test_the_traps_work(victim, pgnotifier_dsn, statement):
    """A statement with unqualified names executes a trap."""
    with psycopg.connect(victim, autocommit=True) as careless:
        careless.execute(statement)
    assert trapped(pgnotifier_dsn)


@pytest.mark.parametrize("name", EXECUTED)
def test_each_statement(victim, pgnotifier_dsn, name):
    """Each statement executes no trap, even in a session that isn't set up."""
    statement, parameters = EXECUTED[name]
    with psycopg.connect(victim, autocommit=True) as session:
        assert session.execute("SHOW search_path").fetchone() == ("public, pg_catalog",)
        session.execute(statement, parameters or None)
        session.execute(statement, parameters or None)  # now there is a leader, and so on
    assert trapped(pgnotifier_dsn) == []


@pytest.mark.parametrize("name", ON_LOG)
def test_each_statement_on_the_log(pgnotifier_postgres, victim_with_log, name):
    """The statements on the durable log execute no trap, and neither do its functions."""
    statement, parameters = ON_LOG[name]
    template, user = victim_with_log
    with pgnotifier_postgres.database(template) as dsn:
        with psycopg.connect(make_conninfo(dsn, user=user), autocommit=True) as session:
            for _ in range(2):
                session.execute(statement, parameters or None)
        assert trapped(dsn) == []


def test_installing(victim, pgnotifier_dsn):
    """Installing, granting, checking, repairing and uninstalling executes no trap."""
    with psycopg.connect(victim, autocommit=True) as session:
        for _ in range(2):
            installing.install(session)
            installing.grant(session, session.info.user, "publisher")
            installing.grant(session, session.info.user, "listener")
            installing.grant(session, session.info.user, "enqueuer")
            installing.check(session)
            guard.reanchor(session)
        installing.uninstall(session)
    assert trapped(pgnotifier_dsn) == []


@pytest.mark.parametrize("per", ["row", "statement"])
def test_triggers(victim, pgnotifier_dsn, per):
    """Creating triggers, changing rows and dropping the triggers executes no trap."""
    with psycopg.connect(victim, autocommit=True) as session:
        session.execute("CREATE SCHEMA shop")
        session.execute("CREATE TABLE shop.orders (id pg_catalog.int8, note pg_catalog.varchar)")
        installing.install(session)
        session.execute("SELECT pg_catalog.set_config('pgnotifier.context', '{\"n\": 7}', false)")
        for payload, columns, count in (
            ("key", [], 25_000 if per == "statement" else 10),  # too many for lists of keys
            ("changed", [], 10),
            ("full", ["note"], 10),
        ):
            made = Trigger(
                "orders", "orders", schema="shop", key=["id"], per=per, durable=payload == "full",
                payload=payload, columns=columns, context=True, when="NEW.id > 0 OR OLD.id > 0",
            )  # fmt: skip
            for _ in range(2):
                triggers.create(session, made)
            session.execute("INSERT INTO shop.orders VALUES (1, pg_catalog.repeat('b', 9000))")
            many = f"pg_catalog.generate_series(2, {count}) AS n"
            session.execute(f"INSERT INTO shop.orders SELECT n FROM {many}")
            session.execute("UPDATE shop.orders SET note = 'c'")
            session.execute("DELETE FROM shop.orders")
            session.execute("TRUNCATE shop.orders")
            triggers.list(session)
        assert triggers.drop(session, made)
        triggers.drop_orphans(session)
        session.execute("DROP SCHEMA shop CASCADE")
        installing.uninstall(session)
    assert trapped(pgnotifier_dsn) == []


def test_sessions_are_pinned(victim):
    """The search_path of our own sessions is pg_catalog and pg_temp, whatever the role's is."""
    with Parameters(victim).connect() as session:
        assert session.execute("SHOW search_path").fetchone() == ("pg_catalog, pg_temp",)


def test_listening(victim, pgnotifier_dsn, make_notifier, ledger, monkeypatch):
    """A listener executes no trap while it leads, stands by, takes over, restarts and sends."""
    monkeypatch.setattr(queue_usage, "LIMIT", -1.0)
    monkeypatch.setattr(queue_usage, "INTERVAL", 0.1)
    settings = {"standby": "shop", "heartbeat": 0.1}
    leader = make_notifier(victim, **settings)
    leader.subscribe(1, "orders", ledger.callback)
    other = make_notifier(victim, **settings)
    other.subscribe(2, "orders", ledger.callback)
    leader.restart()
    leader.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    eventually(lambda: leader.status().queue_usage is not None)
    leader.stop()
    eventually(lambda: other.status().state == "listening")
    other.notify("orders", 2)
    eventually(lambda: ledger.delivered == [(1, "orders"), (2, "orders")])
    assert conninfo_to_dict(victim)["user"].startswith("victim")
    assert trapped(pgnotifier_dsn) == []
