"""Publishing where the server has rules: autocommit, locks, rights, encodings, two-phase commit."""

import asyncio
import re
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import psycopg2
import pytest
import sqlalchemy
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier.durable import apublish, apublish_many, grant, install, publish, publish_many
from pgnotifier.errors import (
    ArgumentTypeError,
    ChannelNameError,
    EntryKeyError,
    LogRefusedError,
    PayloadEncodingError,
)
from pgnotifier.testing import PostgresServer


@pytest.fixture
def log(pgnotifier_dsn):
    """Yield a session in a database with the log."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        install(connection)
        yield connection


def published(log):
    """Return the payloads in the log, in order."""
    return [one for (one,) in log.execute("SELECT payload FROM pgnotifier.log ORDER BY id")]


# --- autocommit ---


def breaking(count):
    """Yield some payloads, then raise."""
    yield from range(count)
    raise ZeroDivisionError


def test_autocommit(log):
    """In autocommit, an entry is published at once, and many of them all or none."""
    publish(log, "a", "one")
    publish_many(log, "a", ["two"], "k", order="key")
    assert published(log) == ["one", "two"]
    publish_many(log, "a", range(3000))
    assert len(published(log)) == 3002
    with pytest.raises(ZeroDivisionError):
        publish_many(log, "a", breaking(5000))
    with log.transaction():
        publish_many(log, "a", range(1500))
    assert len(published(log)) == 4502
    assert log.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_autocommit_of_psycopg2(log, pgnotifier_dsn):
    """With psycopg2, many are published all or none, too."""
    connection = psycopg2.connect(pgnotifier_dsn)
    connection.autocommit = True
    publish(connection, "a", "one")
    with pytest.raises(ZeroDivisionError):
        publish_many(connection, "a", breaking(3000))
    assert published(log) == ["one"]
    assert len(publish_many(connection, "a", range(3000))) == 3000
    assert len(published(log)) == 3001
    connection.close()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_autocommit_of_sqlalchemy(log, pgnotifier_dsn, driver):
    """With SQLAlchemy's isolation level AUTOCOMMIT, many are published all or none, too."""
    given = conninfo_to_dict(pgnotifier_dsn)
    connect = {"psycopg": psycopg.connect, "psycopg2": psycopg2.connect}[driver]
    engine = sqlalchemy.create_engine(
        f"postgresql+{driver}://",
        creator=lambda: connect(**given),
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection:
        publish(connection, "a", "one")
        assert published(log) == ["one"]
        with pytest.raises(ZeroDivisionError):
            publish_many(connection, "a", breaking(3000))
        publish_many(connection, "a", range(1500))
        assert len(published(log)) == 1501
    engine.dispose()


def test_autocommit_with_asyncio(log, pgnotifier_dsn):
    """With an AsyncConnection, many are published all or none, too."""

    async def publish_all():
        async with await psycopg.AsyncConnection.connect(
            pgnotifier_dsn, autocommit=True
        ) as connection:
            await apublish(connection, "a", "one")
            with pytest.raises(ZeroDivisionError):
                await apublish_many(connection, "a", breaking(3000))
            await apublish_many(connection, "a", range(1500))

    asyncio.run(publish_all())
    assert len(published(log)) == 1501


# --- order ---


def test_a_key_is_locked_before_the_id_is_drawn(log, pgnotifier_dsn, eventually):
    """A transaction waits for another one with its key, and gets a higher id afterwards."""
    with psycopg.connect(pgnotifier_dsn) as first:
        earlier = publish(first, "stock", 1, "k", order="key")
        found = []

        def follow(channel, key, order):
            with psycopg.connect(pgnotifier_dsn) as other:
                found.append((channel, publish(other, channel, 2, key, order=order)))

        threads = [
            threading.Thread(target=follow, args=one)
            for one in (("stock", "k", "key"), ("stock", "other", "key"), ("free", "k", "key"))
        ]
        for thread in threads:
            thread.start()
        eventually(lambda: len(found) == 2)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
        eventually(lambda: log.execute(waiting).fetchone() == (1,))
        between = publish(log, "stock", "without order", "k")
    for thread in threads:
        thread.join()
    *_, (channel, later) = found
    assert channel == "stock"
    assert earlier < between < later


def test_many_keys_without_deadlock(log, pgnotifier_dsn):
    """Transactions that publish the same keys in opposite orders don't wait in a circle."""
    keys = [f"k{number}" for number in range(50)]
    problems = []

    def publish_often(payloads):
        try:
            with psycopg.connect(pgnotifier_dsn) as connection:
                for _ in range(20):
                    publish_many(connection, "a", payloads, lambda one: one, order="key")
                    connection.commit()
        except psycopg.Error as exc:
            problems.append(exc)

    threads = [
        threading.Thread(target=publish_often, args=(payloads,))
        for payloads in (keys, keys[::-1], keys[25:] + keys[:25])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(published(log)) == 3 * 20 * 50


# --- what the server refuses ---


@pytest.fixture
def role(log):
    """Yield the name of a role without any right."""
    name = f"role_{log.info.backend_pid}"
    log.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    yield name
    log.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def test_rights(log, pgnotifier_dsn, role):
    """Without the rights of a publisher the error says what to run; with them, all calls work."""
    with psycopg.connect(pgnotifier_dsn, user=role, autocommit=True) as connection:
        with pytest.raises(LogRefusedError, match="pgnotifier install --grant-publisher") as caught:
            publish(connection, "a", 1)
        assert isinstance(caught.value, RuntimeError)
        grant(log, role, "publisher")
        publish(connection, "a", 1)
        publish(connection, "a", 2, "k", order="key")
        publish_many(connection, "a", [3, 4], "k", order="key")
        connection.execute("SELECT pgnotifier.lock_keys('a', '{k}')")
        for statement in ("SELECT payload FROM pgnotifier.log", "DELETE FROM pgnotifier.log"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    assert published(log) == ["1", "2", "3", "4"]


def test_read_only(log):
    """A read-only transaction can't publish, and the error says so."""
    with log.transaction():
        log.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(LogRefusedError, match="read-only"):
            publish(log, "a", 1)


def test_errors_of_the_transaction(log, pgnotifier_dsn):
    """Errors that aren't about publishing remain the driver's, for the code that retries."""
    with log.transaction(force_rollback=True):
        with pytest.raises(psycopg.errors.UndefinedColumn):
            log.execute("SELECT nothing")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            publish(log, "a", 1)

    def from_a_query():
        yield from log.execute("SELECT * FROM nowhere")

    with pytest.raises(psycopg.errors.UndefinedTable):
        publish_many(log, "a", from_a_query())


@pytest.mark.parametrize("given", [None, "dbname=shop", 5, object()])
def test_not_a_connection(given):
    """What isn't a connection is refused by its type."""
    with pytest.raises(ArgumentTypeError, match=r"psycopg, psycopg2, SQLAlchemy or Django"):
        publish(given, "a", 1)
    with pytest.raises(ArgumentTypeError, match=r"psycopg, psycopg2, SQLAlchemy or Django"):
        asyncio.run(apublish_many(given, "a", [1]))


def test_the_wrong_function(log, pgnotifier_dsn):
    """A connection for asyncio needs the functions for asyncio, and no other one does."""

    async def mistake():
        async with await psycopg.AsyncConnection.connect(pgnotifier_dsn) as connection:
            with pytest.raises(ArgumentTypeError, match="await apublish"):
                publish(connection, "a", 1)

    asyncio.run(mistake())
    with pytest.raises(ArgumentTypeError, match="use publish"):
        asyncio.run(apublish(log, "a", 1))


# --- encodings ---


@pytest.fixture
def latin(pgnotifier_postgres):
    """Yield the conninfo string of a database with the encoding LATIN1, and the log."""
    with psycopg.connect(pgnotifier_postgres.dsn, autocommit=True) as admin:
        admin.execute("CREATE DATABASE latin_log ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
        dsn = make_conninfo(pgnotifier_postgres.dsn, dbname="latin_log")
        with psycopg.connect(dsn, autocommit=True) as connection:
            install(connection)
        yield dsn
        admin.execute("DROP DATABASE latin_log WITH (FORCE)")


@pytest.mark.parametrize("client", ["LATIN1", "UTF8"])
def test_characters_that_the_database_lacks(latin, client):
    """A character that the database can't keep is refused, and the transaction goes on."""
    with psycopg.connect(latin, client_encoding=client) as connection:
        publish(connection, "é", "é", "é")
        for error, arguments in (
            (PayloadEncodingError, ("a", "10 €")),
            (EntryKeyError, ("a", 1, "€")),
            (ChannelNameError, ("€", 1)),
        ):
            with pytest.raises(error, match="LATIN1, has no character '€'"):
                publish(connection, *arguments)
        publish_many(connection, "é", ["é", "ü"])
        connection.commit()
        assert [one.encode() for one in published(connection)] == [b"\xc3\xa9"] * 2 + [b"\xc3\xbc"]


def test_characters_that_only_the_server_knows_of(latin, log, pgnotifier_dsn):
    """If the driver doesn't say what the encoding is, the server's error is explained."""
    connection = psycopg2.connect(latin, client_encoding="utf8")
    with pytest.raises(PayloadEncodingError, match="LATIN1"):
        publish(connection, "a", "10 €")
    connection.close()
    with (
        psycopg.connect(pgnotifier_dsn, client_encoding="latin1") as other,
        pytest.raises(PayloadEncodingError, match="client_encoding"),
    ):
        publish(other, "a", "10 €")


# --- wake-ups and two-phase commit ---


@pytest.mark.parametrize("setting", ["transaction", "role", "database"])
def test_publishing_without_waking(log, pgnotifier_dsn, setting):
    """`pgnotifier.wake = off` keeps publications from waking readers, wherever it is set."""
    log.execute("SELECT pgnotifier.doze()")
    log.execute("LISTEN pgnotifier_wake")
    user = sql.Identifier(log.info.user)
    database = sql.Identifier(log.info.dbname)
    where = {"role": sql.SQL("ROLE {} IN DATABASE {}").format(user, database)}
    where["database"] = sql.SQL("DATABASE {}").format(database)
    if setting != "transaction":
        log.execute(sql.SQL("ALTER {} SET pgnotifier.wake = off").format(where[setting]))
    with psycopg.connect(pgnotifier_dsn) as connection:
        if setting == "transaction":
            connection.execute("SET LOCAL pgnotifier.wake = off")
        publish(connection, "a", "quiet")
        connection.commit()
        connection.execute("SET pgnotifier.wake = on")
        publish(connection, "a", "loud")
        connection.commit()
        (woken,) = log.notifies(timeout=10, stop_after=1)
        assert woken.pid == connection.info.backend_pid
    assert [*log.notifies(timeout=0.1)] == []


SPELLINGS = {
    *("off", "OFF", "of", " off ", "false", "False", "FALSE", "f", "F", "no", "No", "n", "0"),
    *("on", "ON", "true", "True", "t", "yes", "y", "1"),
}


@pytest.mark.parametrize("is_new", [True, False], ids=["installed", "upgraded"])
def test_spellings_of_off(pgnotifier_dsn, is_new):
    """`pgnotifier.wake` takes each spelling of a boolean that PostgreSQL takes; others mean on."""
    with (
        psycopg.connect(pgnotifier_dsn, autocommit=True) as log,
        psycopg.connect(pgnotifier_dsn, autocommit=True) as reader,
    ):
        if not is_new:
            install(log, 3)
        install(log)
        reader.execute("SELECT pgnotifier.doze()")
        reader.execute("LISTEN pgnotifier_wake")

        def rings(value):
            with log.transaction():
                log.execute("SELECT set_config('pgnotifier.wake', %s, true)", (value,))
                publish(log, "a", "1")
            log.execute("NOTIFY pgnotifier_wake, 'end'")
            found = [*reader.notifies(timeout=60, stop_after=1)]
            while found[-1].payload != "end":
                found += reader.notifies(timeout=60, stop_after=1)
            return len(found) > 1

        for value in sorted(SPELLINGS):
            (is_on,) = log.execute("SELECT %s::boolean", (value,)).fetchone()
            assert rings(value) is is_on, value
        for value in ("", "o", "offf", "nope", "00", "İ"):
            assert rings(value) is True, value


@pytest.mark.servers
def test_two_phase_commit():
    """A transaction that has woken a reader can't be prepared; with the setting it can.

    With `notify`, it can't either way.
    """
    with (
        PostgresServer(settings={"max_prepared_transactions": 2}) as server,
        psycopg.connect(server.dsn, autocommit=True) as log,
        psycopg.connect(server.dsn, autocommit=True) as reader,
    ):
        install(log)
        reader.execute("SELECT pgnotifier.doze()")
        log.execute("BEGIN")
        publish(log, "a", "loud")
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="NOTIFY"):
            log.execute("PREPARE TRANSACTION 'one'")
        log.execute("BEGIN; SET LOCAL pgnotifier.wake = off")
        publish(log, "a", "notified", notify=True)
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="NOTIFY"):
            log.execute("PREPARE TRANSACTION 'one'")
        log.execute("BEGIN; SET LOCAL pgnotifier.wake = 'OFF'")
        publish(log, "a", "quiet")
        log.execute("PREPARE TRANSACTION 'two'")
        assert published(log) == []
        log.execute("COMMIT PREPARED 'two'")
        assert published(log) == ["quiet"]


# --- the documentation ---


def test_the_quick_start(log, pgnotifier_dsn, tmp_path):
    """The program of docs/durable.md delivers what it publishes, and what SQL publishes."""
    text = (Path(__file__).parents[2] / "docs" / "durable.md").read_text()
    program = re.search(r"^```python\n(import psycopg.*?)^```", text, re.DOTALL | re.MULTILINE)[1]
    (published_by_sql,) = re.findall(r"^SELECT pgnotifier.publish.*;$", text, re.MULTILINE)
    script = tmp_path / "shop.py"
    script.write_text(
        program.replace('"postgresql://localhost/shop"', repr(pgnotifier_dsn))
        + "import sys\nprint('ready', flush=True)\nsys.stdin.readline()\nnotifier.stop()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-u", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        lines = [process.stdout.readline() for _ in range(2)]
        assert sorted(lines) == ["an invoice for order 7\n", "ready\n"]
        log.execute(published_by_sql)
        assert process.stdout.readline() == "an invoice for order 7\n"
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
