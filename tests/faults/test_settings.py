"""Settings of roles, databases and servers, and queries that an administrator cancels."""

import contextlib
import logging
import secrets
import threading

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier._connection.parameters import Parameters
from pgnotifier._listener import leader_lock as standby
from pgnotifier._listener import queue_usage as backlog
from pgnotifier.testing import PostgresServer

from .pgbouncer import pgbouncer
from .waiting import eventually

pytestmark = pytest.mark.usefixtures("quick")

TIMEOUTS = [
    {"statement_timeout": "1"},
    {"lock_timeout": "1"},
    {"idle_session_timeout": "1"},
    {"idle_session_timeout": "100"},
    {"transaction_timeout": "1"},
    {"idle_in_transaction_session_timeout": "1"},
    dict.fromkeys(("statement_timeout", "idle_session_timeout", "transaction_timeout"), "1"),
]
READ_ONLY = [
    {"default_transaction_read_only": "on", "default_transaction_isolation": "serializable"},
    {"default_transaction_deferrable": "on", "default_transaction_isolation": "serializable"},
]
OTHERS = {
    "bytea_output": "escape",
    "client_connection_check_interval": "1",
    "client_encoding": "LATIN1",
    "client_min_messages": "debug5",
    "DateStyle": "German",
    "escape_string_warning": "off",
    "extra_float_digits": "-15",
    "IntervalStyle": "sql_standard",
    "jit_above_cost": "0",
    "lc_messages": "C",
    "log_statement": "all",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "search_path": "nowhere",
    "standard_conforming_strings": "off",
    "synchronous_commit": "remote_apply",
    "TimeZone": "Asia/Kathmandu",
    "xmlbinary": "hex",
}


@pytest.fixture
def role(pgnotifier_dsn):
    """Yield a function that creates a role with settings, and returns its conninfo string."""
    made = []

    def make(settings, of="role", superuser=True):
        name = f"role_{secrets.token_hex(4)}"
        dbname = conninfo_to_dict(pgnotifier_dsn)["dbname"]
        target = {
            "role": sql.SQL("ROLE {}").format(sql.Identifier(name)),
            "database": sql.SQL("DATABASE {}").format(sql.Identifier(dbname)),
        }[of]
        with psycopg.connect(pgnotifier_dsn, autocommit=True) as admin:
            admin.execute(
                sql.SQL("CREATE ROLE {} LOGIN {}").format(
                    sql.Identifier(name), sql.SQL("SUPERUSER" if superuser else "NOSUPERUSER")
                )
            )
            made.append(name)
            known = {name for (name,) in admin.execute("SELECT name FROM pg_settings")}
            if settings and not known & settings.keys():
                pytest.skip(f"this server doesn't know {', '.join(settings)}")
            for setting, value in settings.items():
                if setting not in known:
                    continue
                admin.execute(
                    sql.SQL("ALTER {} SET {} = {}").format(target, sql.Identifier(setting), value)
                )
        return make_conninfo(pgnotifier_dsn, user=name)

    yield make
    with Parameters(pgnotifier_dsn).connect() as admin:
        for name in made:
            with contextlib.suppress(psycopg.Error):
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def check_listening(notifier, ledger, gaps):
    """Check that it receives, sends heartbeats for a while, restarts, and changes channels."""

    def rounds(more):
        begun = notifier.status().latency.count
        eventually(lambda: notifier.status().latency.count >= begun + more, 30)

    notifier.subscribe(1, "orders", ledger.callback)
    rounds(4)
    notifier.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    notifier.restart()
    rounds(4)
    notifier.notify("orders", 2)
    notifier.subscribe(1, "more", ledger.callback)
    notifier.remove_channel("more")
    eventually(lambda: ledger.delivered == [(1, "orders"), (2, "orders")])
    assert notifier.status().reconnects == 1  # the restart
    assert notifier.status().queue_usage is not None
    assert gaps == []


@pytest.mark.parametrize("of", ["role", "database"])
@pytest.mark.parametrize(
    "settings", [*TIMEOUTS, *READ_ONLY, OTHERS], ids=lambda settings: min(settings)
)
def test_settings(role, make_notifier, ledger, settings, of, monkeypatch, caplog):
    """No setting of its role or its database disturbs a listener."""
    caplog.set_level(logging.WARNING, "pgnotifier")
    monkeypatch.setattr(backlog, "LIMIT", -1.0)  # ask which session blocks the queue, too
    monkeypatch.setattr(backlog, "INTERVAL", 0.2)
    conf = role(settings, of)
    gaps = []
    notifier = make_notifier(conf, heartbeat=0.15, standby="shop", on_gap=gaps.append)
    check_listening(notifier, ledger, gaps)
    assert not [text for text in caplog.messages if "notification queue is" not in text]


def test_no_superuser(role, make_notifier, ledger):
    """A listener copes with such settings without being a superuser."""
    gaps = []
    conf = role({**TIMEOUTS[-1], **READ_ONLY[0]}, superuser=False)
    check_listening(make_notifier(conf, heartbeat=0.15, on_gap=gaps.append), ledger, gaps)


def test_no_temporary_files(role, make_notifier, ledger, db, monkeypatch, caplog):
    """No query of a listener needs temporary files, even if the server has thousands of locks."""
    caplog.set_level(logging.WARNING, "pgnotifier")
    monkeypatch.setattr(backlog, "LIMIT", -1.0)  # ask which session blocks the queue, too
    monkeypatch.setattr(backlog, "INTERVAL", 0.2)
    conf = role({"temp_file_limit": "0", "work_mem": "64kB"}, superuser=False)
    db.execute("SELECT pg_advisory_lock(n) FROM generate_series(1, 3000) AS n")
    gaps = []
    notifier = make_notifier(conf, heartbeat=0.15, standby="shop", on_gap=gaps.append)
    check_listening(notifier, ledger, gaps)
    assert not [text for text in caplog.messages if "notification queue is" not in text]


def test_no_right_to_look(role, pgnotifier_dsn, make_notifier, ledger):
    """A listener works without the right to read settings and sessions."""
    conf = role({}, superuser=False)
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as admin:
        admin.execute(
            "REVOKE ALL ON pg_catalog.pg_settings, pg_catalog.pg_stat_activity FROM public"
        )
    notifier = make_notifier(conf, heartbeat=0.15)
    notifier.subscribe(1, "orders", ledger.callback)
    notifier.restart()
    notifier.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    assert notifier.status().gaps == 0


def test_standing_by(role, make_notifier, ledger):
    """A listener that stands by and takes over isn't disconnected by timeouts."""
    conf = role({**TIMEOUTS[-1], **READ_ONLY[0]})
    leader = make_notifier(conf, standby="shop")
    leader.add_channel("orders")
    gaps = []
    other = make_notifier(conf, heartbeat=0.15, standby="shop", on_gap=gaps.append)
    other.subscribe(1, "orders", ledger.callback)
    eventually(lambda: other.status().latency.count > 2)
    assert (other.status().state, other.status().reconnects) == ("standby", 0)
    leader.stop()
    eventually(lambda: other.status().state == "listening")
    eventually(lambda: len(gaps) == 1)
    other.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])


def test_options_of_the_user(role, monkeypatch):
    """Options from the conninfo string or from `PGOPTIONS` are kept beside ours."""
    conf = role({"idle_session_timeout": "1"})
    monkeypatch.setenv("PGOPTIONS", "-c maintenance_work_mem=1234kB")
    for one, expected in (
        (conf, "1234kB"),
        (make_conninfo(conf, options="-c maintenance_work_mem=2777kB"), "2777kB"),
    ):
        with Parameters(one).connect() as connection:
            found = connection.execute("SHOW maintenance_work_mem").fetchone()
            assert found == (expected,)
            assert connection.execute("SHOW idle_session_timeout").fetchone() == ("0",)


def test_a_replica_that_is_down(make_notifier):
    """Heartbeats don't wait for a synchronous replica that is down, although other commits do."""
    with PostgresServer() as server:
        if server.is_external:
            pytest.skip("needs a server of its own")
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            admin.execute("SELECT pg_reload_conf()")
        notifier = make_notifier(server.dsn, heartbeat=0.15, heartbeat_timeout=0.5)
        notifier.add_channel("orders")
        eventually(lambda: notifier.status().latency.count > 4)
        assert notifier.status().reconnects == 0


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_what_a_pooler_shares(pgnotifier_dsn, make_notifier, mode):
    """Behind a pooler, the server's session has unchanged settings for its next client.

    In session mode it is set up, too, but only once the mode has been recognized.
    """
    with pgbouncer(pgnotifier_dsn, mode, 2) as dsn:
        notifier = make_notifier(dsn, heartbeat_timeout=1.0)
        if mode == "session":
            notifier.add_channel("orders")
        else:
            notifier.add_channel("orders", autorun=False)
            with pytest.raises(ConnectionError):
                notifier.start()
        notifier.notify("orders", 1)
        notifier.stop()
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
            assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


class Sleeping:
    """Finds our sessions that sleep in a query, and cancels the query."""

    def __init__(self, sessions):
        self._sessions = sessions

    def cancel(self, times=1):
        for _ in range(times):
            (pid,) = eventually(self._find)
            self._sessions.execute("SELECT pg_cancel_backend(%s)", pid)

    def _find(self):
        rows = self._sessions.execute(
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            " AND datname = current_database() AND application_name = 'pgnotifier'"
        )
        return rows[0] if rows else None


SLEEP = b"SELECT pg_catalog.pg_sleep(0.4);"


@pytest.fixture
def sleeping(sessions, caplog):
    """Yield what cancels queries; the test fails if it logs a warning or an error."""
    caplog.set_level(logging.INFO, "pgnotifier")
    yield Sleeping(sessions)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def slow(monkeypatch, target):
    """Make a function that returns queries prefix each with a sleep."""
    module, _, name = target.rpartition(".")
    original = getattr(__import__(module, fromlist=[name]), name)
    monkeypatch.setattr(target, lambda *args, **named: SLEEP + original(*args, **named))


@pytest.mark.parametrize("times", [1, 3])
def test_canceled_heartbeat(
    pgnotifier_dsn, make_notifier, sleeping, ledger, monkeypatch, times, caplog
):
    """A heartbeat that somebody cancels is sent again."""
    notifier = make_notifier(pgnotifier_dsn, heartbeat=0.1)
    notifier.subscribe(1, "orders", ledger.callback)
    slow(monkeypatch, "pgnotifier._listener.heartbeat.notify_query")
    sleeping.cancel(times)
    eventually(lambda: caplog.text.count("sending it again") >= times)
    notifier.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    assert (notifier.status().reconnects, notifier.status().gaps) == (0, 0)


def test_canceled_listen(pgnotifier_dsn, make_notifier, sleeping, ledger, monkeypatch):
    """LISTEN and UNLISTEN that somebody cancels are sent again, and the caller notices nothing."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.add_channel("first")
    slow(monkeypatch, "pgnotifier._listener.reader_connection.listen_query")
    canceling = threading.Thread(target=sleeping.cancel, args=(2,))
    canceling.start()
    notifier.subscribe(1, "orders", ledger.callback)
    notifier.remove_channel("first")
    canceling.join()
    notifier.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    assert (notifier.status().reconnects, notifier.status().gaps) == (0, 0)


@pytest.mark.parametrize("query", ["listen_query", "notify_query"])
def test_canceled_handover(pgnotifier_dsn, make_notifier, sleeping, ledger, monkeypatch, query):
    """Canceled queries of a connection that is to replace another are sent again."""
    notifier = make_notifier(pgnotifier_dsn, standby="shop")
    notifier.subscribe(1, "orders", ledger.callback)
    slow(monkeypatch, f"pgnotifier._listener.handover.{query}")
    canceling = threading.Thread(target=sleeping.cancel)
    canceling.start()
    notifier.restart()
    canceling.join()
    notifier.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    assert (notifier.status().reconnects, notifier.status().gaps) == (1, 0)


def test_canceled_poll(pgnotifier_dsn, make_notifier, sleeping, monkeypatch):
    """A standby's poll that somebody cancels is sent again."""
    leader = make_notifier(pgnotifier_dsn, standby="shop")
    leader.add_channel("orders")
    monkeypatch.setattr(standby, "_QUERY", SLEEP + standby._QUERY)
    other = make_notifier(pgnotifier_dsn, standby="shop")
    other.add_channel("orders")
    sleeping.cancel(2)
    assert (other.status().state, other.status().reconnects) == ("standby", 0)
    leader.stop()
    eventually(lambda: other.status().state == "listening")


def test_canceled_notify(pgnotifier_dsn, make_notifier, sleeping, ledger, monkeypatch):
    """A canceled query of `notify()` has sent nothing, and is sent again."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", ledger.callback)
    query = "SELECT pg_catalog.pg_notify(%s, %s) FROM pg_catalog.pg_sleep(0.4)"
    monkeypatch.setattr("pgnotifier._connection.publisher._NOTIFY", query)
    canceling = threading.Thread(target=sleeping.cancel)
    canceling.start()
    notifier.notify("orders", 1)
    canceling.join()
    notifier.notify("orders", 2)
    eventually(lambda: ledger.delivered == [(1, "orders"), (2, "orders")])


def test_canceled_for_ever(pgnotifier_dsn, make_notifier, sessions, monkeypatch, caplog):
    """A query that is canceled again and again leads to a new connection; it isn't a defect."""
    from pgnotifier._connection.session import QueryCanceledError

    caplog.set_level(logging.INFO, "pgnotifier")
    notifier = make_notifier(pgnotifier_dsn, heartbeat=0.1)
    notifier.add_channel("orders")
    fail = [True] * 30

    def refuse(*_):
        if fail and fail.pop():
            raise QueryCanceledError("a query was canceled")

    original = notifier._lifecycle.listener.connection._try_round_trip

    def trip(*args):
        refuse()
        return original(*args)

    monkeypatch.setattr(notifier._lifecycle.listener.connection, "_try_round_trip", trip)
    eventually(lambda: notifier.status().reconnects >= 1, 30)
    assert "defect" not in caplog.text


@pytest.mark.parametrize("of", ["role", "database"])
@pytest.mark.parametrize(
    "settings", [*TIMEOUTS, *READ_ONLY, OTHERS], ids=lambda settings: min(settings)
)
def test_settings_of_a_durable_reader(role, make_notifier, log, settings, of, caplog):
    """No setting of its role or its database keeps a durable subscription from anything."""
    got = []

    def fail_once(id, channel, payload, pid):
        got.append(payload)
        if len(got) == 1:
            raise ValueError("\\ '")

    notifier = make_notifier(role(settings, of))
    notifier.subscribe("invoice", "orders", fail_once, durable=True)
    log.publish("orders", "\\ '", 2, key="\\ '")
    eventually(lambda: len(log.failed("invoice")) == 1 and 2 in got)
    log.have_retried()
    eventually(lambda: got == ["\\ '", 2, "\\ '"])
    notifier.seek("invoice", "orders", "oldest")
    eventually(lambda: len(got) == 5)
    eventually(lambda: notifier.status().log is not None)
    assert "defect" not in caplog.text
    assert "can't read the log" not in caplog.text
