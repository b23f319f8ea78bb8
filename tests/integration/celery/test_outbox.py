"""Tasks that are published in a transaction, on each kind of connection."""

import asyncio
from contextlib import asynccontextmanager, contextmanager
from tempfile import TemporaryFile

import psycopg
import psycopg2
import pytest
import sqlalchemy
from celery import Celery, chain, group
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Trace
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from pgnotifier import durable
from pgnotifier.contrib.celery.outbox import CeleryOutbox
from pgnotifier.contrib.celery.relay_messages import read
from pgnotifier.errors import (
    ArgumentTypeError,
    ChannelNameError,
    ConfigurationError,
    LogNotInstalledError,
    LogRefusedError,
)

NOBODY = "redis://127.0.0.1:1/0"
SYNC = ("connection", "cursor", "psycopg2", "psycopg2 cursor", "alchemy", "orm", "another cursor")
ASYNC = ("async", "async cursor", "alchemy async", "orm async", "scoped orm async")


def url(dsn, driver):
    """Return the address of a database, as SQLAlchemy takes it."""
    given = conninfo_to_dict(dsn)
    return sqlalchemy.URL.create(
        f"postgresql+{driver}",
        username=given.get("user"),
        port=int(given["port"]),
        database=given["dbname"],
        query={"host": given["host"]},
    )


class OtherCursor:
    """A cursor of a driver that nobody knows."""

    def __init__(self, cursor):
        self.connection = cursor.connection
        self._cursor = cursor

    @property
    def description(self):
        return self._cursor.description

    def execute(self, statement, arguments=()):
        return self._cursor.execute(statement, arguments)

    def fetchall(self):
        return self._cursor.fetchall()


@contextmanager
def connected(kind, dsn):
    """Yield a connection of a kind, which is closed without a commit."""
    if kind.startswith("psycopg2"):
        connection = psycopg2.connect(dsn)
        yield connection.cursor() if "cursor" in kind else connection
        connection.close()
    elif kind in ("alchemy", "orm"):
        engine = sqlalchemy.create_engine(url(dsn, "psycopg2" if kind == "orm" else "psycopg"))
        with Session(engine) if kind == "orm" else engine.connect() as connection:
            yield connection
        engine.dispose()
    else:
        with psycopg.connect(dsn) as connection:
            cursor = connection.cursor()
            yield {"cursor": cursor, "another cursor": OtherCursor(cursor)}.get(kind, connection)
            connection.rollback()


@asynccontextmanager
async def connected_async(kind, dsn):
    """Yield a connection for asyncio of a kind."""
    if kind.startswith("async"):
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            yield connection.cursor() if "cursor" in kind else connection
        return
    engine = create_async_engine(url(dsn, "psycopg"))
    if "scoped" in kind:
        scope = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        yield scope
        await scope.close()
    else:
        async with AsyncSession(engine) if "orm" in kind else engine.connect() as connection:
            yield connection
    await engine.dispose()


def end(connection, how):
    """Commit or roll back."""
    return getattr(connection if hasattr(connection, how) else connection.connection, how)()


@pytest.fixture
def app():
    """Return an app with a broker and a result backend that are down."""
    return Celery("shop", broker=NOBODY, backend=NOBODY, set_as_current=False)


@pytest.fixture
def outbox(app):
    return CeleryOutbox(app)


@pytest.fixture
def task(app):
    @app.task(name="own", shared=False)
    def own(*args):
        """Do nothing."""

    return own


@pytest.fixture
def entries(log):
    """Return a function that returns what is committed: the queue and the id of each task."""

    def find(channel="pgnotifier:celery:default"):
        rows = log.execute(
            "SELECT payload FROM pgnotifier.log WHERE channel = %s ORDER BY id", channel
        )
        found = [read(payload) for (payload,) in rows]
        return [(one.destination.routing_key, one.open().headers["id"]) for one in found]

    return find


@pytest.mark.parametrize("kind", SYNC)
def test_kinds_of_connections(log, entries, outbox, task, kind):
    """Tasks exist once the transaction has committed, and never if it is rolled back."""
    with connected(kind, log.dsn) as connection:
        for how in ("rollback", "commit", "commit"):
            with outbox(connection):
                first = task.delay(1)
                second = task.apply_async((2,), queue="low")
                before = entries()
            third = outbox.enqueue(connection, task.s(3), countdown=5)
            many = outbox.enqueue_many(connection, [task.s(n) for n in range(3)])
            assert entries() == before
            end(connection, how)
            expected = [(("celery", one.id)) for one in (first, third, *many)]
            expected.insert(1, ("low", second.id))
            assert entries()[len(before) :] == (expected if how == "commit" else [])


@pytest.mark.parametrize("kind", ASYNC)
def test_kinds_of_connections_for_asyncio(log, entries, outbox, task, kind):
    """The same holds for asyncio."""

    async def run():
        async with connected_async(kind, log.dsn) as connection:
            for how in ("rollback", "commit", "commit"):
                async with outbox(connection):
                    first = task.delay(1)
                    before = entries()
                second = await outbox.aenqueue(connection, task.s(2), queue="low")
                many = await outbox.aenqueue_many(connection, [task.s(n) for n in range(3)])
                assert entries() == before
                await end(connection, how)
                expected = [("celery", first.id), ("low", second.id)]
                expected += [("celery", one.id) for one in many]
                assert entries()[len(before) :] == (expected if how == "commit" else [])

    asyncio.run(run())


def test_autocommit(log, entries, outbox, task):
    """In autocommit, the tasks of a block are committed when it ends."""
    with outbox(log.connection):
        results = [task.delay(n) for n in range(3)]
        assert entries() == []
    assert [task_id for _, task_id in entries()] == [one.id for one in results]


WATCHED = [kind for kind in SYNC if kind != "another cursor"]


@pytest.fixture
def warned(caplog):
    """Return a function that returns whether blocks have warned, and forgets it."""

    def warned():
        found = [one.getMessage() for one in caplog.records if one.name == "pgnotifier.log"]
        caplog.clear()
        return any("outbox celery:default became part of a new transaction" in one for one in found)

    return warned


@pytest.mark.parametrize("how", ["commit", "rollback"])
@pytest.mark.parametrize("kind", WATCHED)
def test_a_transaction_that_ends_in_a_block(log, entries, outbox, task, warned, kind, how):
    """A warning says that the messages need another commit; with it, nothing is lost."""
    with connected(kind, log.dsn) as connection:
        with outbox(connection):
            execute(connection, one_of(kind))
            task.delay(1)
            end(connection, how)
        assert warned()
        assert entries() == []
        end(connection, "commit")
        assert len(entries()) == 1
        execute(connection, one_of(kind))
        with outbox(connection):
            end(connection, how)
            task.delay(2)
        assert warned()


@pytest.mark.parametrize("kind", WATCHED)
def test_transactions_that_do_not_end_in_a_block(log, outbox, task, warned, kind):
    """There is no warning if the messages are part of a transaction that goes on, or of none."""
    with connected(kind, log.dsn) as connection:
        for _ in range(2):
            with outbox(connection):
                task.delay(1)
            end(connection, "commit")
        with outbox(connection):
            execute(connection, one_of(kind))
            task.delay(2)
            end(connection, "commit")
            execute(connection, one_of(kind))
        with outbox(connection):
            end(connection, "commit")
    with log.connection.transaction(), outbox(log.connection):
        task.delay(3)
    with outbox(log.connection), log.connection.transaction():
        task.delay(4)
    assert not warned()


@pytest.mark.parametrize("kind", ["alchemy", "orm"])
def test_commits_before_publishing(log, outbox, task, warned, kind):
    """SQLAlchemy reports also the end of a transaction that has begun in the block."""
    with connected(kind, log.dsn) as connection, outbox(connection):
        connection.execute(one_of(kind))
        connection.commit()
        task.delay(1)
    assert warned()


@pytest.mark.parametrize("kind", ["alchemy", "orm"])
def test_an_engine_that_commits_each_statement(log, entries, outbox, task, warned, kind):
    """There is no warning if nobody has to commit."""
    engine = sqlalchemy.create_engine(url(log.dsn, "psycopg"), isolation_level="AUTOCOMMIT")
    with Session(engine) if kind == "orm" else engine.connect() as connection:
        with outbox(connection):
            connection.execute(one_of(kind))
            task.delay(1)
            connection.commit()
        assert len(entries()) == 1
    engine.dispose()
    assert not warned()


@pytest.mark.parametrize("kind", ASYNC)
def test_a_transaction_that_ends_in_a_block_for_asyncio(log, outbox, task, warned, kind):
    """The same holds for asyncio."""

    async def run():
        async with connected_async(kind, log.dsn) as connection:
            async with outbox(connection):
                await connection.execute(one_of(kind))
                task.delay(1)
            assert not warned()
            async with outbox(connection):
                await end(connection, "commit")
                task.delay(2)
            assert warned()
            await end(connection, "rollback")

    asyncio.run(run())


def execute(connection, statement):
    """Execute a statement; psycopg2 needs a cursor."""
    with_execute = connection if hasattr(connection, "execute") else connection.cursor()
    with_execute.execute(statement)


def one_of(kind):
    """Return a statement."""
    is_alchemy = "alchemy" in kind or "orm" in kind
    return sqlalchemy.text("SELECT 1") if is_alchemy else "SELECT 1"


def test_thousands(log, entries, outbox, task):
    """More messages than a statement takes are still one transaction."""
    results = outbox.enqueue_many(log.connection, (task.s(n) for n in range(2500)))
    assert [task_id for _, task_id in entries()] == [one.id for one in results]
    assert len(log.execute("SELECT DISTINCT xid FROM pgnotifier.log")) == 1


@contextmanager
def traced(connection):
    """Yield a list that gets what libpq sends on a connection."""
    sent = []
    with TemporaryFile("w+") as file:
        connection.pgconn.trace(file.fileno())
        connection.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        yield sent
        connection.pgconn.untrace()
        file.seek(0)
        sent += [line.split()[2] for line in file if line.startswith("F\t")]


def test_one_round_trip(log, entries, outbox, task):
    """The statements for thousands of messages are sent together, on a connection of psycopg."""
    few, many = ([task.s(n) for n in range(count)] for count in (2, 5000))

    async def publish():
        connection = await psycopg.AsyncConnection.connect(log.dsn)
        async with connection:
            await outbox.aenqueue_many(connection, few)
            with traced(connection) as sent:
                results = await outbox.aenqueue_many(connection, many)
        return sent, results

    with psycopg.connect(log.dsn) as connection:
        outbox.enqueue_many(connection, few)
        with traced(connection) as sent:
            results = outbox.enqueue_many(connection, many)
    sent_later, later = asyncio.run(publish())
    for found in (sent, sent_later):
        # Each Sync is a round trip. The relay's subscription may be looked for in one of its own.
        assert found.count("Execute") - found.count("Sync") == 4
    ids = [task_id for _, task_id in entries()]
    assert ids[2:5002] == [one.id for one in results]
    assert ids[5004:] == [one.id for one in later]


def test_thousands_that_are_refused(log, entries, make_role, outbox, task, caplog):
    """An error of one of the statements is explained, once; none of them has had an effect."""
    outbox.enqueue(log.connection, task.s())
    name, dsn = make_role()
    durable.grant(log.connection, name, "enqueuer")
    log.execute(
        f"CREATE POLICY few ON pgnotifier.log TO {name} WITH CHECK (id % 3000 <> 0);"
        "ALTER TABLE pgnotifier.log ENABLE ROW LEVEL SECURITY"
    )
    many = [task.s(n) for n in range(5000)]

    async def publish():
        connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        async with connection:
            await outbox.aenqueue_many(connection, many)

    with psycopg.connect(dsn, autocommit=True) as connection, pytest.raises(LogRefusedError):
        outbox.enqueue_many(connection, many)
    with pytest.raises(LogRefusedError):
        asyncio.run(publish())
    assert len(entries()) == 1
    assert [one for one in caplog.records if one.name.startswith("psycopg")] == []


def test_savepoints(log, entries, outbox, task):
    """What is rolled back to a savepoint never existed, and its subscription is made again."""
    with psycopg.connect(log.dsn) as connection:
        with connection.transaction(force_rollback=True), outbox(connection):
            task.delay(1)
        with outbox(connection):
            kept = task.delay(2)
    assert entries() == [("celery", kept.id)]
    assert log.execute("SELECT name, channel FROM pgnotifier.subscription") == [
        ("outbox:celery:shop", "pgnotifier:celery:default")
    ]


def test_a_block_that_raises(log, entries, outbox, task):
    """An exception in the block inserts nothing, whatever becomes of the transaction."""
    with pytest.raises(LookupError), outbox(log.connection):
        task.delay(1)
        raise LookupError
    assert entries() == []
    with outbox(log.connection):
        pass
    assert entries() == []


def test_nested_blocks(log, entries, outbox, task):
    """An inner block has its own transaction."""
    with psycopg.connect(log.dsn) as other:
        with outbox(other):
            lost = task.delay(1)
            with outbox(log.connection):
                kept = task.delay(2)
        assert entries() == [("celery", kept.id)]
        other.rollback()
    assert lost.id != kept.id
    assert entries() == [("celery", kept.id)]


def test_canvases(log, entries, app, outbox, task):
    """Canvases are inserted whole. Groups need their result backend."""
    app.conf.result_backend = "cache+memory://"
    with outbox(log.connection):
        result = chain(task.s(1), group(task.s(2), task.s(3)).set(queue="low")).apply_async()
    ((queue, _),) = entries()
    assert queue == "celery"
    assert len(result.results) == 2


def test_names(log, entries, app, task):
    """Each outbox has its own channel."""
    other = CeleryOutbox(app, "mail")
    assert (other.channel, other.name) == ("pgnotifier:celery:mail", "mail")
    result = other.enqueue(log.connection, task)
    assert entries() == []
    assert entries("pgnotifier:celery:mail") == [("celery", result.id)]
    with pytest.raises(ChannelNameError):
        CeleryOutbox(app, "x" * 46)
    with pytest.raises(ArgumentTypeError, match="name must be a str"):
        CeleryOutbox(app, 1)


def test_wrong_arguments(log, outbox, task):
    """What can't work is refused before anything is published."""
    other = Celery("other", broker=NOBODY, set_as_current=False)
    with pytest.raises(ArgumentTypeError, match="of the app 'other'"):
        outbox.enqueue(log.connection, other.signature("elsewhere"))
    with pytest.raises(ArgumentTypeError, match="enqueue a signature"):
        outbox.enqueue(log.connection, "own")
    with pytest.raises(ConfigurationError, match="needs Django"):
        outbox.enqueue(None, task)
    with pytest.raises(ArgumentTypeError, match="publish with a connection"):
        outbox.enqueue(object(), task)
    block = outbox(log.connection)
    with block:
        pass
    with pytest.raises(ConfigurationError, match="used once"), block:
        pass


def test_the_other_kind(log, outbox, task):
    """A connection for asyncio needs `async with`, and others don't take it."""

    async def run():
        async with connected_async("async", log.dsn) as connection:
            with pytest.raises(ArgumentTypeError, match="async with"), outbox(connection):
                pass
        with pytest.raises(ArgumentTypeError, match="isn't for asyncio"):
            await outbox.aenqueue(log.connection, task)

    asyncio.run(run())


def test_no_log(pgnotifier_dsn, outbox, task):
    """A database without a log is an error of the block."""
    with psycopg.connect(pgnotifier_dsn) as connection:
        with pytest.raises(LogNotInstalledError, match="pgnotifier install"), outbox(connection):
            task.delay(1)
        connection.rollback()
