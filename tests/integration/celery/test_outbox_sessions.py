"""Tasks in the transactions of SQLAlchemy's sessions, which an outbox follows."""

import asyncio
import contextvars
import gc
import os
import threading
from functools import partial

import psycopg
import pytest
import sqlalchemy
from celery import Celery
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session
from sqlalchemy.orm import sessionmaker as make_factory

from pgnotifier import durable
from pgnotifier.contrib.celery.outbox import CeleryOutbox
from pgnotifier.contrib.celery.relay_messages import read
from pgnotifier.errors import ArgumentTypeError, ConfigurationError, LogRefusedError
from pgnotifier.testing import PostgresServer

DRIVERS = ("psycopg", "psycopg2")


class Base(DeclarativeBase):
    """What models descend from."""


class Order(Base):
    """An order."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


def do_nothing(*args):
    """Do nothing."""


@pytest.fixture
def app():
    """Return an app with a broker in memory: what is sent at once can be counted."""
    return Celery("shop", broker="memory://", set_as_current=False)


@pytest.fixture
def outbox(app):
    return CeleryOutbox(app)


@pytest.fixture
def task(app):
    return app.task(name="own", shared=False)(do_nothing)


def make_url(dsn, driver="psycopg"):
    """Return the address of a database, as SQLAlchemy takes it."""
    given = conninfo_to_dict(dsn)
    return sqlalchemy.URL.create(
        f"postgresql+{driver}",
        username=given.get("user"),
        port=int(given["port"]),
        database=given["dbname"],
        query={"host": given["host"]},
    )


@pytest.fixture
def address(log):
    """Return a function that returns the database's address, given a driver."""
    log.execute("CREATE TABLE orders (id integer PRIMARY KEY)")
    return partial(make_url, log.dsn)


@pytest.fixture
def engine(address):
    engine = sqlalchemy.create_engine(address())
    yield engine
    engine.dispose()


@pytest.fixture
def maker(engine, outbox):
    """Return a factory of sessions that the outbox follows."""
    maker = make_factory(engine)
    with outbox.follow(maker):
        yield maker


@pytest.fixture
def entries(log):
    """Return a function that returns the ids of the tasks that are committed in the log."""

    def find():
        rows = log.execute("SELECT payload FROM pgnotifier.log ORDER BY id")
        return [read(payload).open().headers["id"] for (payload,) in rows]

    return find


@pytest.fixture
def sent(app):
    """Return a function that takes the ids of tasks out of the broker."""

    def take():
        found = []
        with app.connection_for_read() as connection:
            channel = connection.channel()
            channel.queue_declare(queue="celery")
            while message := channel.basic_get("celery", no_ack=True):
                found.append(message.headers["id"])
        return found

    take()  # what other tests have left in this process
    return take


@pytest.mark.parametrize("driver", DRIVERS)
def test_transactions(address, entries, sent, outbox, task, driver):
    """Tasks exist once the session has committed, and never if it is rolled back."""
    engine = sqlalchemy.create_engine(address(driver))
    maker = make_factory(engine)
    with outbox.follow(maker):
        with maker.begin() as session:
            session.add(Order(id=1))
            first, second = task.delay(1), task.apply_async((2,), queue="low")
            assert entries() == []
        assert entries() == [first.id, second.id]
        with pytest.raises(LookupError), maker.begin() as session:
            task.delay(3)
            raise LookupError
        with maker() as session:
            session.add(Order(id=2))
            task.delay(4)
            session.rollback()
            session.add(Order(id=3))
            third = task.delay(5)
            session.commit()
            outside = task.delay(6)
        with maker.begin():
            alone = task.delay(7)  # the session has no connection yet
    engine.dispose()
    assert entries() == [first.id, second.id, third.id, alone.id]
    assert sent() == [outside.id]


def test_one_statement(maker, engine, task):
    """What was published is inserted with one statement."""
    statements = []
    for number in range(2):  # the first one makes the subscription, the second one finds it
        with maker.begin():
            task.delay(number)

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection, _cursor, statement, *_):
        if "pgnotifier" in statement:
            statements.append(statement)

    with maker.begin():
        for number in range(20):
            task.delay(number)
    assert len(statements) == 1


def test_savepoints(maker, entries, sent, task):
    """What is rolled back to a savepoint never existed; the rest stays in order."""
    with maker.begin() as session:
        kept = [task.delay(1)]
        with session.begin_nested():
            kept.append(task.delay(2))
            with pytest.raises(LookupError), session.begin_nested():
                task.delay(3)
                raise LookupError
            kept.append(task.delay(4))
        nested = session.begin_nested()
        task.delay(5)
        nested.rollback()
        with pytest.raises(LookupError), session.begin_nested():
            with session.begin_nested():
                task.delay(6)
            raise LookupError
        kept.append(task.delay(7))
        assert entries() == []
    assert (entries(), sent()) == ([one.id for one in kept], [])


@pytest.mark.parametrize("how", ["session", "transaction"])
def test_a_commit_with_open_savepoints(maker, entries, sent, task, how):
    """Savepoints that are open are committed with the transaction around them."""
    with maker() as session:
        transaction = session.begin()
        kept = [task.delay(1)]
        session.begin_nested()
        kept.append(task.delay(2))
        session.begin_nested()
        (session if how == "session" else transaction).commit()
    assert (entries(), sent()) == ([one.id for one in kept], [])


@pytest.mark.parametrize("is_nested", [False, True])
def test_events_of_the_flush(maker, entries, sent, task, is_nested):
    """What is published while the session commits is part of the transaction as well."""
    kept = []

    @event.listens_for(Order, "after_insert")
    def publish(*_):
        kept.append(task.delay(1))

    @event.listens_for(maker, "before_commit")
    def publish_more(_):
        kept.append(task.delay(2))

    try:
        with maker() as session:
            transaction = session.begin()
            kept.append(task.delay(0))
            session.add(Order(id=1))
            if is_nested:
                session.begin_nested()
            session.add(Order(id=2))
            transaction.commit()
            assert len(kept) == 4 + is_nested * 1
            assert (entries(), sent()) == ([one.id for one in kept], [])
            session.add(Order(id=1))
            with pytest.raises(sqlalchemy.exc.IntegrityError):
                session.commit()
        assert len(entries()) == len(kept) - 1
    finally:
        event.remove(Order, "after_insert", publish)


def test_after_the_commit(maker, entries, sent, task):
    """What is published after COMMIT, by events or in the same block, is sent at once."""
    results = []

    @event.listens_for(maker, "after_commit")
    def publish(_):
        results.append(task.delay(1))

    with maker.begin():
        kept = task.delay(0)
    assert (entries(), sent()) == ([kept.id], [results[0].id])


def test_a_flush_that_fails(maker, entries, sent, task):
    """SQLAlchemy rolls back then: what was published is gone, and what is reports the failure."""
    with maker() as session:
        session.add(Order(id=1))
        task.delay(1)
        session.add(Order(id=2))
        session.flush()
        session.expunge_all()
        session.add(Order(id=1))
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            session.flush()
        report = task.delay("failed")
        session.rollback()
        kept = task.delay("sent at once, as no transaction is open")
    assert (entries(), sent()) == ([], [report.id, kept.id])


@pytest.mark.servers
@pytest.mark.slow
def test_two_phases(outbox, task):
    """The messages are part of a transaction that is prepared."""
    with (
        PostgresServer(settings={"max_prepared_transactions": 2}) as server,
        psycopg.connect(server.dsn, autocommit=True) as connection,
    ):
        durable.install(connection)
        engine = sqlalchemy.create_engine(make_url(server.dsn))
        maker = make_factory(engine, twophase=True)
        count = "SELECT count(*) FROM pgnotifier.log"
        with outbox.follow(maker), maker() as session:
            session.begin()
            task.delay(1)
            session.prepare()
            assert connection.execute(count).fetchone() == (0,)
            session.commit()
        assert connection.execute(count).fetchone() == (1,)
        engine.dispose()


def test_a_session_in_a_transaction_of_others(engine, entries, outbox, task):
    """A session on a connection leaves the end of the transaction to whoever began it."""
    with engine.connect() as connection, outbox.follow(Session):
        for mode in ("rollback_only", "create_savepoint"):
            outer = connection.begin()
            with Session(connection, join_transaction_mode=mode) as session:
                session.add(Order(id=1))
                task.delay(1)
                session.commit()
            outer.rollback()
        assert entries() == []
        with connection.begin(), Session(connection) as session:
            session.execute(sqlalchemy.text("SELECT 1"))
            kept = task.delay(2)
            session.commit()
    assert entries() == [kept.id]


def test_several_sessions(maker, entries, sent, app, task):
    """A task that could be part of two transactions is refused; a block says which."""
    aside = app.task(name="aside", outbox=False, shared=False)(do_nothing)
    with maker.begin() as first, maker.begin() as second:
        with pytest.raises(ConfigurationError, match=r"with outbox\(session\)"):
            task.delay(1)
        outside = aside.delay(1)
        with CeleryOutbox(app)(first):
            kept = [task.delay(2)]
        second.rollback()
        kept.append(task.delay(3))
    assert (entries(), sent()) == ([one.id for one in kept], [outside.id])


def test_what_is_not_followed(maker, engine, entries, sent, app, task):
    """Other sessions, other apps and tasks with outbox=False have no part in it."""
    other = Celery("other", broker="memory://", set_as_current=False)
    aside = app.task(name="aside", outbox=False, shared=False)(do_nothing)
    with Session(engine) as session:
        session.execute(sqlalchemy.text("SELECT 1"))
        results = [task.delay(1)]
        session.rollback()
    with maker.begin():
        results.append(aside.delay(1))
        results.append(other.send_task("own"))
    assert (entries(), sent()) == ([], [one.id for one in results])


def test_threads(maker, entries, sent, task):
    """Each thread has its own transaction, and one without a session has none."""
    results = {}

    def alone():
        results["alone"] = task.delay(1)

    def work():
        with maker.begin():
            results["other"] = task.delay(2)

    with pytest.raises(LookupError), maker.begin():
        for target in (alone, work):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        task.delay(3)
        raise LookupError
    assert (entries(), sent()) == ([results["other"].id], [results["alone"].id])


@pytest.mark.parametrize("use", ["add", "execute", "flush"])
def test_a_session_that_began_elsewhere(maker, entries, sent, task, use):
    """Where a session is used it is found: its transaction may have begun in another context."""
    with maker() as session:
        contextvars.copy_context().run(session.execute, sqlalchemy.text("SELECT 1"))
        if use == "execute":
            session.execute(sqlalchemy.text("INSERT INTO orders VALUES (1)"))
        else:
            contextvars.copy_context().run(session.add, Order(id=1))
            session.flush() if use == "flush" else session.add(Order(id=2))
        kept = task.delay(1)
        contextvars.copy_context().run(session.commit)
        outside = task.delay(2)
    assert (entries(), sent()) == ([kept.id], [outside.id])


def test_a_session_that_goes_on_elsewhere(maker, entries, sent, task):
    """A context that has used a session has no part in its next transaction."""
    with maker() as session:
        session.execute(sqlalchemy.text("SELECT 1"))
        session.commit()
        contextvars.copy_context().run(session.execute, sqlalchemy.text("SELECT 1"))
        outside = task.delay(1)
        session.commit()
    assert (entries(), sent()) == ([], [outside.id])


@pytest.mark.parametrize("is_scoped", [False, True])
def test_registries(engine, entries, outbox, task, is_scoped):
    """A class of sessions and a scoped_session can be followed as well."""

    class Mine(Session):
        """A class of the application's own."""

    maker = scoped_session(make_factory(engine)) if is_scoped else lambda: Mine(engine)
    with outbox.follow(maker if is_scoped else Mine):
        session = maker()
        session.add(Order(id=1))
        kept = task.delay(1)
        session.commit()
        session.close()
    assert entries() == [kept.id]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_asyncio(address, entries, sent, outbox, task, driver):
    """Sessions for asyncio are followed in each task of asyncio."""
    given = address(driver)
    if driver == "asyncpg":
        query = {"host": given.query["host"], "port": str(given.port)}
        given = given.set(host=None, port=None, query=query)

    async def work(maker, number):
        async with maker() as session:
            async with session.begin():
                session.add(Order(id=number))
                await asyncio.sleep(0)
                first = task.delay(number)
                async with session.begin_nested() as savepoint:
                    task.delay("lost")
                    await savepoint.rollback()
            session.add(Order(id=-number))
            second = task.delay(number)
            await session.commit()
            session.add(Order(id=number))
            task.delay("lost")
            with pytest.raises(sqlalchemy.exc.IntegrityError):
                await session.commit()
            await session.rollback()
        return [first.id, second.id]

    async def run():
        engine = create_async_engine(given)
        maker = async_sessionmaker(engine)
        with outbox.follow(maker):
            async with AsyncSession(engine) as other:
                await other.execute(sqlalchemy.text("SELECT 1"))
                outside = task.delay(0)  # only this factory's sessions are followed
            kept = await asyncio.gather(*(work(maker, number) for number in (1, 2, 3)))
        await engine.dispose()
        return outside, kept

    outside, kept = asyncio.run(run())
    assert sorted(entries()) == sorted(one for some in kept for one in some)
    assert sent() == [outside.id]


@pytest.mark.parametrize("how", ["closed", "collected", "an exception", "rolled back", "empty"])
def test_sessions_that_are_dropped(maker, sent, entries, task, caplog, how):
    """Tasks that are lost because somebody has forgotten to commit are reported."""

    def work():
        session = maker()
        session.execute(sqlalchemy.text("SELECT 1"))
        if how != "empty":
            task.delay(1)
        if how == "rolled back":
            session.rollback()
        if how == "closed":
            session.close()
        if how == "an exception":
            with pytest.raises(LookupError), session:
                raise LookupError

    work()
    gc.collect()
    assert (entries(), sent()) == ([], [])
    warned = [one.getMessage() for one in caplog.records if one.name == "pgnotifier.celery"]
    lost = "not published: 1 task of the app 'shop'; the session"
    assert [one.startswith(lost) for one in warned] == [True] * (how in ("closed", "collected"))
    task.delay(2)
    assert len(sent()) == 1


def test_forks(maker, entries, sent, task):
    """A forked child has no part in its parent's transaction."""
    with maker.begin():
        if (child := os.fork()) == 0:
            task.delay(1)
            os._exit(len(sent()))
        _, status = os.waitpid(child, 0)
        kept = task.delay(2)
    assert os.waitstatus_to_exitcode(status) == 1
    assert entries() == [kept.id]


def test_a_refusal(engine, log, entries, maker, task):
    """Without a right to enqueue, the commit fails, and nothing is committed."""
    with maker() as session:
        session.add(Order(id=1))
        session.execute(sqlalchemy.text("SET TRANSACTION READ ONLY"))
        task.delay(1)
        with pytest.raises(LogRefusedError):
            session.commit()
        session.rollback()
    assert entries() == []
    assert log.execute("SELECT * FROM orders") == []


def test_several_databases(address, engine, entries, outbox, task):
    """`bind_arguments` says which database of a session takes the tasks."""
    maker = make_factory(binds={Order: engine})
    with outbox.follow(maker, bind_arguments={"mapper": Order}), maker.begin():
        kept = task.delay(1)
    assert entries() == [kept.id]


def test_following_twice(maker, entries, sent, outbox, task):
    """Sessions that are followed already are refused, and `undo` ends it."""
    for sessions in (maker, Session, scoped_session(maker)):
        with pytest.raises(ConfigurationError, match="have sessions in common"):
            outbox.follow(sessions)
    following = outbox.follow(other := make_factory(maker.kw["bind"]))
    session = other()
    session.begin()
    task.delay(1)
    with pytest.raises(ConfigurationError, match="open transaction with tasks"):
        following.undo()
    session.rollback()
    following.undo()
    following.undo()
    with other.begin():
        outside = task.delay(2)
    with outbox.follow(other), other.begin():
        kept = task.delay(3)
    assert (entries(), sent()) == ([kept.id], [outside.id])


def test_undo_in_a_transaction(maker, entries, sent, outbox, task):
    """A transaction that is open has no part in it from `undo` on."""
    following = outbox.follow(other := make_factory(maker.kw["bind"]))
    with other.begin():
        following.undo()
        outside = task.delay(1)
    assert (entries(), sent()) == ([], [outside.id])


def test_exclusions(engine, entries, sent, app, outbox, task):
    """Tasks that `exclude` names, and calls with `outbox=False`, are sent at once."""
    vendor = app.task(name="vendor.mail.send", shared=False)(do_nothing)
    maker, other = make_factory(engine), make_factory(engine)
    with outbox.follow(maker, exclude=["vendor.*", "named"]), outbox.follow(other):
        with maker.begin():
            kept = [task.delay(1)]
            outside = [
                vendor.delay(1),
                app.send_task("named"),
                task.apply_async((1,), outbox=False),
                vendor.s(2).apply_async(),
            ]
            kept.append(app.send_task("other.named"))
        with other.begin():
            kept.append(vendor.delay(3))
        with maker.begin() as session, outbox(session):
            kept.append(vendor.delay(4))
        with maker.begin(), other.begin():
            with pytest.raises(ConfigurationError, match="several sessions"):
                vendor.delay(5)
            outside.append(vendor.apply_async((5,), outbox=False))
    found = entries(), sent()
    assert found == ([one.id for one in kept], [one.id for one in outside])


@pytest.mark.parametrize("exclude", ["vendor.*", [7], 7])
def test_wrong_exclusions(maker, outbox, exclude):
    """Anything but a list of names is refused, and nothing is followed."""
    with pytest.raises(ArgumentTypeError, match="exclude must"):
        outbox.follow(other := make_factory(maker.kw["bind"]), exclude=exclude)
    outbox.follow(other).undo()


def test_what_cannot_be_followed(outbox):
    """Only what makes sessions can be followed."""
    for wrong in (None, int, "Session", object(), scoped_session(dict)):
        with pytest.raises(ArgumentTypeError, match="follow a class of sessions"):
            outbox.follow(wrong)
