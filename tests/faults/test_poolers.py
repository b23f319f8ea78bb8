"""Poolers in between: those that swallow notifications are detected at each connect."""

import itertools
import tempfile
import threading
from pathlib import Path

import psycopg
import pytest
import trustme
from psycopg import sql

from pgnotifier import NotListeningError
from pgnotifier._connection.parameters import Parameters
from pgnotifier._durable.log_session import LogSession
from pgnotifier._inquiry.asking import ask
from pgnotifier.durable import install, publish, publish_many

from .pgbouncer import knows_prepared_statements, pgbouncer
from .waiting import eventually

PID = "SELECT pg_backend_pid()"

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("pool_size", [1, 5])
@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
def test_one_that_swallows(pgnotifier_dsn, make_notifier, pool_mode, pool_size):
    """If a pooler accepts LISTEN but delivers nothing, the error says what to do instead."""
    with pgbouncer(pgnotifier_dsn, pool_mode, pool_size) as dsn:
        notifier = make_notifier(dsn, heartbeat_timeout=1.0)
        notifier.add_channel("orders", autorun=False)
        with pytest.raises(NotListeningError, match="pool_mode=session"):
            notifier.start()
        assert not notifier.is_running()
        with pytest.raises(NotListeningError):
            notifier.start()


ASKED = (
    "SELECT 1 FROM pg_locks JOIN pg_database ON database = pg_database.oid"
    " WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND datname = current_database()"
)


@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
def test_questions_through_one_that_swallows(pgnotifier_dsn, make_notifier, pool_mode):
    """Whoever asks through it learns that answers don't arrive, and leaves no lock behind."""
    make_notifier(pgnotifier_dsn).add_channel("orders")
    with pgbouncer(pgnotifier_dsn, pool_mode) as dsn:
        with pytest.raises(NotListeningError, match="pool in session mode"):
            ask(Parameters(dsn))
        with psycopg.connect(pgnotifier_dsn) as connection:
            assert connection.execute(ASKED).fetchall() == []


def test_questions_through_one_with_sessions(pgnotifier_dsn, make_notifier):
    """In session mode, answers arrive."""
    make_notifier(pgnotifier_dsn).add_channel("orders")
    with pgbouncer(pgnotifier_dsn, "session") as dsn:
        assert [one.state for one in ask(Parameters(dsn))] == ["listening"]


@pytest.mark.parametrize("pool_size", [1, 5])
def test_one_with_sessions(pgnotifier_dsn, make_notifier, sessions, ledger, pool_size):
    """In session mode everything works, including reconnects and restarts.

    A restart needs a second connection, for which a pool of one session has none.
    """
    with pgbouncer(pgnotifier_dsn, "session", pool_size) as dsn:
        notifier = make_notifier(dsn, heartbeat=0.5, heartbeat_timeout=2.0)
        notifier.subscribe(1, "orders", ledger.callback)
        sessions.notify("orders", 1)
        eventually(lambda: ledger.delivered == [(1, "orders")])
        if pool_size > 1:
            notifier.restart()
            assert notifier.status().gaps == 0
        sessions.terminate()
        eventually(lambda: notifier.status().gaps == 1)
        sessions.notify("orders", 2)
        eventually(lambda: ledger.delivered == [(1, "orders"), (2, "orders")])


def test_taken_into_use_later(pgnotifier_dsn, make_notifier):
    """A listener that reconnects to a transaction pooler stays disconnected, and says why."""
    with pgbouncer(pgnotifier_dsn, "transaction") as dsn:
        to = [pgnotifier_dsn]
        notifier = make_notifier(lambda: to[0], heartbeat_timeout=0.5)
        notifier.add_channel("orders")
        to[0] = dsn
        with pytest.raises(NotListeningError):
            notifier.restart()
        assert notifier.status().state == "disconnected"
        eventually(lambda: "pool_mode=session" in notifier.status().why)
        to[0] = pgnotifier_dsn
        eventually(lambda: notifier.status().state == "listening")
        eventually(lambda: notifier.status().gaps >= 1)


def test_over_tls(pgnotifier_dsn, make_notifier, sessions, ledger):
    """Over TLS, nothing stays in OpenSSL's buffer, where no wait for the socket would notice it."""
    with tempfile.TemporaryDirectory(prefix="pgn-") as folder:
        Path(folder).chmod(0o755)  # the pooler may be another user's
        certificate = Path(folder, "both.pem")
        issued = trustme.CA().issue_cert("localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(certificate)
        certificate.chmod(0o644)
        given = {"client_tls_key_file": certificate, "client_tls_cert_file": certificate}
        with pgbouncer(pgnotifier_dsn, "session", client_tls_sslmode="require", **given) as dsn:
            notifier = make_notifier(dsn, heartbeat=600.0)
            notifier.subscribe(1, "orders", ledger.callback)
            sent = 0
            for size, count in itertools.product((10, 1000, 7990), (1, 2, 3, 40, 400)):
                sessions.execute(
                    f"SELECT pg_notify('orders', lpad(n::text, {size}))"
                    f" FROM generate_series({sent + 1}, {sent + count}) AS n"
                )
                sent += count
                eventually(lambda: len(ledger.delivered) == sent)  # noqa: B023
            assert [int(one) for one, _ in ledger.delivered] == [*range(1, sent + 1)]
            notifier.stop()


def test_what_poolers_say(pgnotifier_dsn):
    """PgBouncer gives its clients a made-up pid, which is how it is recognized."""
    with pgbouncer(pgnotifier_dsn, "session") as dsn, psycopg.connect(dsn) as connection:
        ((pid,),) = connection.execute("SELECT pg_backend_pid()").fetchall()
        assert connection.info.backend_pid != pid


# --- reading the durable log ---


def end_readers(log):
    """Terminate the sessions of sources, once there are some."""
    for pid in eventually(log.readers):
        log.execute("SELECT pg_terminate_backend(%s)", pid)


@pytest.mark.parametrize("pool_size", [1, 5])
@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
def test_a_source_refuses_a_shared_session(log, make_notifier, record, pool_mode, pool_size):
    """A durable subscription isn't read through a pooler that shares sessions; nothing is lost."""
    with pgbouncer(log.dsn, pool_mode, pool_size) as dsn:
        notifier = make_notifier(dsn, heartbeat_timeout=1.0)
        notifier.subscribe("invoice", "paid", record, durable=True, start="oldest", autorun=False)
        log.publish("paid", 1)
        with pytest.raises(NotListeningError, match="pool_mode=session"):
            notifier.start()
        assert not notifier.is_running()
    assert log.execute("SELECT * FROM pgnotifier.subscription") == []
    direct = make_notifier(log.dsn)
    direct.subscribe("invoice", "paid", record, durable=True, start="oldest")
    assert record.wait_for(1) == [1]


@pytest.mark.parametrize("shares", [True, False], ids=["same session", "another session"])
def test_a_source_that_reconnects_to_a_shared_session(log, make_notifier, record, shares):
    """A source finds out by itself, and says so; what is published meanwhile waits.

    The pooler may give its second connection the same session of the server, or another one.
    """
    with pgbouncer(log.dsn, "transaction", server_round_robin=int(not shares)) as dsn:
        to = [log.dsn]
        notifier = make_notifier(lambda: to[0], heartbeat_timeout=0.5)
        notifier.subscribe("invoice", "paid", record, durable=True)
        log.publish("paid", 1)
        assert record.wait_for(1) == [1]
        with psycopg.connect(dsn) as one, psycopg.connect(dsn) as two:  # so that it has two
            assert one.execute(PID).fetchone() != two.execute(PID).fetchone()
        to[0] = dsn
        end_readers(log)
        eventually(lambda: "pool_mode=session" in str(notifier.status().durable[0].why))
        assert notifier.status().state == "listening"
        log.publish("paid", 2)
        assert log.readers() == []
        assert record.payloads == [1]
        to[0] = log.dsn
        assert record.wait_for(2) == [1, 2]


@pytest.mark.parametrize("pool_size", [2, 5])
def test_a_source_with_a_session_of_a_pooler(log, make_notifier, record, pool_size):
    """In session mode durable subscriptions work, and reconnect; their session is set up.

    In a pool of two, the listener has one, and nothing is left for a second connection.
    """
    database = sql.Identifier(log.connection.info.dbname)
    setting = "ALTER DATABASE {} SET default_transaction_isolation TO serializable"
    log.execute(sql.SQL(setting).format(database))
    with pgbouncer(log.dsn, "session", pool_size) as dsn:
        notifier = make_notifier(dsn, heartbeat_timeout=0.5)
        notifier.subscribe("invoice", "paid", record, durable=True)
        log.publish("paid", 1)
        assert record.wait_for(1) == [1]
        end_readers(log)
        log.publish("paid", 2)
        assert record.wait_for(2) == [1, 2]


def test_a_source_prepares_nothing_in_a_pool(log):
    """A client that gets the session later finds no statement that was prepared in it."""
    prepared = "SELECT name FROM pg_prepared_statements"
    with pgbouncer(log.dsn, "session") as dsn:
        for target, count in ((log.dsn, 1), (dsn, 0)):
            with Parameters(target).connect() as connection:
                session = LogSession(connection)
                sub = session.subscribe("invoice", "paid", "now")
                for _ in range(10):
                    assert session.advance(sub, None, None, 10, keep=True) is not None
                assert len(connection.execute(prepared).fetchall()) == count
                session.unlock(sub)


# --- publishing ---


@pytest.mark.parametrize("pool_size", [1, 5])
@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_publishing_durably(pgnotifier_dsn, pool_mode, pool_size):
    """Entries are published through a pooler, in transaction mode as well."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as log:
        install(log)
        log.execute("SELECT pgnotifier.doze()")
        with pgbouncer(pgnotifier_dsn, pool_mode, pool_size) as dsn:
            # Such a pooler may not know prepared statements, which is the user's to set.
            with psycopg.connect(dsn, prepare_threshold=None) as first:
                for number in range(10):  # each in another session of the server, perhaps
                    publish(first, "a", number)
                    publish_many(first, "a", [number] * 2, "k", order="key")
                    first.commit()
                publish(first, "a", "lost")
                first.rollback()
                first.execute("SET LOCAL pgnotifier.wake = off")
                publish(first, "a", "quiet")
                first.commit()
            with psycopg.connect(dsn, prepare_threshold=None, autocommit=True) as second:
                publish(second, "a", "one")
                publish_many(second, "a", ["many"] * 1500)
        found = log.execute("SELECT payload FROM pgnotifier.log ORDER BY id").fetchall()
        expected = [str(number) for number in range(10) for _ in range(3)]
        assert [one for (one,) in found] == [*expected, "quiet", "one", *["many"] * 1500]
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
        assert log.execute(held).fetchone() == (0,)


@pytest.mark.parametrize("pool_size", [1, 2])
def test_many_publishers_share_sessions(log, make_notifier, record, pool_size):
    """What four clients publish in one session of the server, or two, is delivered, in order.

    What is set for a transaction of one of them isn't set for the others.
    """
    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", record, durable=True)
    failed = []

    def work(client):
        try:
            with psycopg.connect(dsn, prepare_threshold=None) as connection:
                for number in range(0, 40, 4):
                    some = [[client, number + at] for at in range(4)]
                    if client == 0:
                        connection.execute("SET LOCAL pgnotifier.wake = off")
                    for one in some[:2]:
                        publish(connection, "paid", one, key="k", order="key")
                    publish_many(connection, "paid", some[2:], str, order="key")
                    publish(connection, "paid", "last")
                    connection.rollback() if number == 20 else connection.commit()
        except psycopg.Error as exc:
            failed.append(exc)

    with pgbouncer(log.dsn, "transaction", pool_size) as dsn:
        threads = [threading.Thread(target=work, args=[client]) for client in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert failed == []
    expected = [at for at in range(40) if at not in range(20, 24)]
    record.wait_for(4 * (len(expected) + 9))
    for client in range(4):
        got = [one[1] for one in record.payloads if one[0] == client]
        assert got == expected


def test_a_wake_up_that_is_turned_off_for_a_transaction(log):
    """Through a shared session, `SET LOCAL` turns wake-ups off for that transaction alone."""
    log.execute("LISTEN pgnotifier_wake")
    with pgbouncer(log.dsn, "transaction", 1) as dsn:
        for mute in (True, False, True):
            log.execute("SELECT pgnotifier.doze()")
            with psycopg.connect(dsn, prepare_threshold=None) as connection:
                if mute:
                    connection.execute("SET LOCAL pgnotifier.wake = off")
                publish(connection, "paid", 1)
                publish_many(connection, "paid", [2, 3])
            rung = len([*log.connection.notifies(timeout=0.5 if mute else 60, stop_after=1)])
            assert rung == int(not mute)


def test_prepared_statements(log, make_notifier, record):
    """A pooler that knows prepared statements takes psycopg's; another one refuses to publish.

    Then nothing is published, and the driver's error says what it is about.
    """
    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", record, durable=True)
    knows = knows_prepared_statements()
    settings = {"max_prepared_statements": 100} if knows else {}
    with pgbouncer(log.dsn, "transaction", 1, **settings) as dsn:
        with psycopg.connect(dsn) as first, psycopg.connect(dsn) as second:
            for number in range(10):  # psycopg prepares what it executes for the sixth time
                publish(first, "paid", number)
                first.commit()
            if knows:
                for number in range(10, 20):
                    publish(second, "paid", number)
                    second.commit()
            else:
                with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
                    for _ in range(10):
                        publish(second, "paid", "undone")
        published = list(range(20 if knows else 10))
        with psycopg.connect(dsn, prepare_threshold=None) as third:
            for number in range(20, 30):
                publish(third, "paid", number)
        assert record.wait_for(len(published) + 10) == [*published, *range(20, 30)]
