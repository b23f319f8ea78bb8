"""Jobs that are enqueued in a transaction: by Python, asyncio and SQL, with a relay and workers."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from redis import Redis, RedisError
from rq import Queue
from rq.job import Dependency, Job
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from pgnotifier import durable
from pgnotifier.contrib.rq import RQOutbox
from pgnotifier.contrib.rq.outbox_jobs import read
from pgnotifier.errors import (
    ArgumentTypeError,
    ChannelNameError,
    ConfigurationError,
    LogNotInstalledError,
    LogRefusedError,
)

LATER = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
SOURCE = """
from pgnotifier.contrib.rq import RQOutbox
outbox = RQOutbox(queue)
outbox.relay_to(notifier, allow=["shop.add"])

def add(n, times=1):
    write("jobs", n, times)
    return n

def fail(n):
    raise ValueError(n)
"""


def work(*args, **options):
    """Do nothing: no worker runs."""


@pytest.fixture
def nowhere():
    """Return a queue of a Redis that is down."""
    return Queue("images", connection=Redis(port=1, retry=None))


@pytest.fixture
def outbox(nowhere):
    return RQOutbox(nowhere)


@pytest.fixture
def entries(log):
    """Return a function that returns what is committed: the queue and the id of each job."""

    def find(channel="pgnotifier:rq:default"):
        rows = log.execute(
            "SELECT key, payload FROM pgnotifier.log WHERE channel = %s ORDER BY id", channel
        )
        found = [(key, read(payload)) for key, payload in rows]
        assert all(key == made.queue for key, made in found)
        return [(made.queue, made.id) for _, made in found]

    return find


@pytest.fixture
def queue(broker):
    """Yield an empty queue of this test."""
    with Redis.from_url(broker) as connection:
        queue = Queue("outbox-jobs", connection=connection)
        yield queue
        queue.delete(delete_jobs=True)
        connection.delete(queue.scheduled_job_registry.key, "pgnotifier:rq:sent:default")


def url(dsn):
    """Return the address of a database, as SQLAlchemy takes it."""
    given = conninfo_to_dict(dsn)
    return sqlalchemy.URL.create(
        "postgresql+psycopg",
        username=given.get("user"),
        port=int(given["port"]),
        database=given["dbname"],
        query={"host": given["host"]},
    )


@pytest.mark.parametrize("kind", ["psycopg", "alchemy"])
def test_transactions(log, entries, outbox, kind):
    """Jobs exist once the transaction has committed, and never if it is rolled back."""
    engine = sqlalchemy.create_engine(url(log.dsn))
    with psycopg.connect(log.dsn) if kind == "psycopg" else Session(engine) as connection:
        for how in ("rollback", "commit", "commit"):
            before = entries()
            jobs = [
                outbox.enqueue(connection, work, 1, job_timeout=60),
                outbox.to("low").enqueue(connection, work, 2),
                outbox.enqueue_at(connection, LATER, work, 3),
                outbox.enqueue_in(connection, timedelta(minutes=1), work, 4),
            ]
            data = [Queue.prepare_data(work, args=(n,), job_id=f"{how}-{n}") for n in range(3)]
            jobs += outbox.enqueue_many(connection, iter(data))
            assert entries() == before
            getattr(connection, how)()
            expected = [("low" if n == 1 else "images", job.id) for n, job in enumerate(jobs)]
            assert entries()[len(before) :] == (expected if how == "commit" else [])
    engine.dispose()


def test_asyncio(log, entries, outbox):
    """The same holds for asyncio."""

    async def enqueue(connection):
        jobs = [
            await outbox.aenqueue(connection, work, 1),
            await outbox.aenqueue_at(connection, LATER, work, 2),
            await outbox.aenqueue_in(connection, timedelta(minutes=1), work, 3),
            *await outbox.aenqueue_many(connection, [Queue.prepare_data(work)]),
        ]
        await connection.commit()
        await outbox.aenqueue(connection, work, 4)
        await connection.rollback()
        return [job.id for job in jobs]

    async def main():
        async with await psycopg.AsyncConnection.connect(log.dsn) as connection:
            ids = await enqueue(connection)
        engine = create_async_engine(url(log.dsn))
        async with AsyncSession(engine) as session:
            ids += await enqueue(session)
        scope = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        ids += await enqueue(scope)
        await scope.close()
        await engine.dispose()
        return ids

    assert [("images", one) for one in asyncio.run(main())] == entries()


def test_autocommit_and_savepoints(log, entries, outbox):
    """Without a transaction, a job is committed at once; a savepoint that fails takes its jobs."""
    with psycopg.connect(log.dsn, autocommit=True) as connection:
        first = outbox.enqueue(connection, work)
        assert entries() == [("images", first.id)]
        with connection.transaction():
            second = outbox.enqueue(connection, work)
            with connection.transaction(force_rollback=True):
                outbox.enqueue(connection, work)
        assert entries() == [("images", first.id), ("images", second.id)]


def test_blocks(log, entries, outbox, nowhere):
    """What a block enqueues with RQ's own calls is part of the transaction, unless it raises."""
    low = Queue("low", connection=Redis(port=1))
    with psycopg.connect(log.dsn) as connection:
        for how in ("rollback", "commit"):
            with outbox(connection):
                first = nowhere.enqueue(work, 1)
                second = low.enqueue(work, 2, depends_on=first)
                assert not entries()
            with pytest.raises(ValueError, match="changed my mind"), outbox(connection):
                nowhere.enqueue(work, 3)
                raise ValueError("changed my mind")
            getattr(connection, how)()
        assert entries() == [("images", first.id), ("low", second.id)]
        block = outbox(connection)
        with block:
            pass
        with pytest.raises(ConfigurationError, match="used once"), block:
            pass
        with pytest.raises(RedisError):
            nowhere.enqueue(work, 4)
    assert len(entries()) == 2


def test_blocks_of_asyncio(log, entries, outbox, nowhere):
    """The same holds for asyncio, where a connection needs `async with`."""

    async def main():
        async with await psycopg.AsyncConnection.connect(log.dsn) as connection:
            with pytest.raises(ArgumentTypeError, match="async with"), outbox(connection):
                pass
            async with outbox(connection):
                job = nowhere.enqueue(work, 1)
            await connection.commit()
            return job.id

    assert [("images", asyncio.run(main()))] == entries()


def test_what_is_refused_changes_nothing(log, entries, outbox, nowhere):
    """An error of RQ or of the outbox leaves the transaction as it was."""
    wrong = [
        (ValueError, lambda c: outbox.enqueue(c, work, ttl=0)),
        (ValueError, lambda c: outbox.enqueue(c, work, job_timeout=0)),
        (ConfigurationError, lambda c: outbox.enqueue(c, work, pipeline=object())),
        (Exception, lambda c: outbox.enqueue(c, work, lambda: None)),
        (ValueError, lambda c: outbox.enqueue(c, work, description="\ud800")),
        (ArgumentTypeError, lambda c: outbox.enqueue_many(c, [work])),
        (ArgumentTypeError, lambda c: outbox.to(7)),
        (ArgumentTypeError, lambda c: outbox.enqueue(7, work)),
    ]
    with psycopg.connect(log.dsn) as connection:
        for error, call in wrong:
            with pytest.raises(error):
                call(connection)
        job = outbox.enqueue(connection, work)
    assert entries() == [("images", job.id)]
    with pytest.raises(ArgumentTypeError, match="for asyncio: await aenqueue"):
        outbox.enqueue(psycopg.AsyncCursor.__new__(psycopg.AsyncCursor), work)
    with pytest.raises(ConfigurationError, match="needs Django"):
        outbox.enqueue(None, work)
    with pytest.raises(ArgumentTypeError, match=r"RQOutbox needs an rq\.Queue"):
        RQOutbox(7)
    with pytest.raises(ChannelNameError):
        RQOutbox(nowhere, "x" * 50)


def test_a_database_without_the_log(pgnotifier_dsn, outbox):
    """The error says what to do."""
    with (
        psycopg.connect(pgnotifier_dsn) as connection,
        pytest.raises(LogNotInstalledError, match="pgnotifier install"),
    ):
        outbox.enqueue(connection, work)


def test_only_enqueuers(log, make_role, entries, outbox):
    """A publisher may not enqueue; an enqueuer may; who may call `enqueue_job` can do just that."""
    name, dsn = make_role()
    durable.grant(log.connection, name, "publisher")
    with psycopg.connect(dsn) as connection, pytest.raises(LogRefusedError):
        outbox.enqueue(connection, work)
    durable.grant(log.connection, name, "enqueuer")
    with psycopg.connect(dsn) as connection:
        job = outbox.enqueue(connection, work)
    assert entries() == [("images", job.id)]
    other, dsn = make_role()
    log.execute(f"GRANT USAGE ON SCHEMA pgnotifier TO {other}")
    log.execute(f"GRANT EXECUTE ON FUNCTION pgnotifier.enqueue_job TO {other}")
    with psycopg.connect(dsn) as connection, pytest.raises(LogRefusedError):
        outbox.enqueue(connection, work)
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT pgnotifier.enqueue_job('shop.add')")


def test_a_queue_that_runs_jobs_at_once(log, entries, broker):
    """With `is_async=False`, RQ runs the job in this process, as in tests without an outbox."""
    with Redis.from_url(broker) as connection:
        queue = Queue("sync-jobs", connection=connection, is_async=False)
        with psycopg.connect(log.dsn) as database:
            job = RQOutbox(queue).enqueue(database, "builtins.abs", -7, result_ttl=5)
        assert job.return_value() == 7
        assert entries() == []


def test_the_relay(log, make_notifier, queue, eventually):
    """What was committed before and after the relay's start is enqueued, in order."""
    outbox = RQOutbox(queue)
    low = Queue("outbox-low", connection=queue.connection)
    with psycopg.connect(log.dsn) as connection:
        before = [outbox.enqueue(connection, work, n) for n in range(5)]
    notifier = make_notifier(log.dsn)
    outbox.relay_to(notifier)
    notifier.start()
    eventually(lambda: queue.count == 5)
    with psycopg.connect(log.dsn) as connection:
        after = outbox.enqueue_many(connection, [Queue.prepare_data(work)] * 1200)
        other = outbox.to(low).enqueue(connection, work)
    eventually(lambda: low.count == 1)
    assert queue.job_ids == [job.id for job in (*before, *after)]
    assert low.job_ids == [other.id]
    relayed = {f"{__name__}.work": 1206}  # it counts them once Redis has answered
    expected = {"outbox": "default", "relayed": relayed, "refused": 0}
    eventually(lambda: notifier.status().dispatchers[0].details == expected)
    low.delete()


def test_replicas_and_dead_letters(log, make_notifier, queue, eventually):
    """Two relays send each job once. What SQL may not ask for is set aside."""
    outbox = RQOutbox(queue)
    for _ in range(2):
        notifier = make_notifier(log.dsn)
        outbox.relay_to(notifier, allow=["shop.*"])
        outbox.relay_to(notifier)  # which keeps what was allowed
        notifier.start()
    with psycopg.connect(log.dsn) as connection:
        first = outbox.enqueue(connection, work)
        connection.execute("SELECT pgnotifier.enqueue_job('os.system', '[\"true\"]')")
        ((asked,),) = connection.execute(
            "SELECT pgnotifier.enqueue_job('shop.add', '[7]', meta => '{\"by\": \"sql\"}')"
        )
        ((timed,),) = connection.execute(
            "SELECT pgnotifier.enqueue_job('shop.add', queue => 'outbox-jobs', delay => '1 hour')"
        )
    eventually(lambda: queue.scheduled_job_registry.count == 1)
    assert queue.job_ids == [first.id, str(asked)]
    assert queue.scheduled_job_registry.get_job_ids() == [str(timed)]
    job = Job.fetch(str(asked), connection=queue.connection)
    assert (job.func_name, job.args, job.meta) == ("shop.add", (7,), {"by": "sql"})
    dead = "SELECT error FROM pgnotifier.failed WHERE dead"
    eventually(lambda: log.execute(dead))
    assert "'os.system' matches no pattern" in log.execute(dead)[0][0]


def test_one_relay_per_notifier(log, make_notifier, queue):
    """The channel is reserved: another dispatcher may not read it."""
    notifier = make_notifier(log.dsn)
    outbox = RQOutbox(queue, "billing")
    with pytest.raises(ChannelNameError):
        notifier.subscribe("mine", outbox.channel, work, durable=True)
    outbox.relay_to(notifier)
    assert (outbox.subscription, outbox.channel) == ("outbox:rq:billing", "pgnotifier:rq:billing")
    assert repr(outbox) == "<RQOutbox 'billing' of queue 'outbox-jobs'>"


def test_workers(log, open_shop, eventually):
    """A chain of jobs, enqueued in one transaction with their rows, is executed in its order."""
    shop = open_shop(SOURCE)
    shop.listener()
    shop.worker("--with-scheduler")
    queue = Queue(shop.queue, connection=shop.redis)
    outbox = RQOutbox(queue)
    with psycopg.connect(log.dsn) as connection:
        connection.execute("CREATE TABLE orders (id int)")
        job = outbox.enqueue(connection, "shop.add", 0)
        for n in range(1, 5):
            job = outbox.enqueue(connection, "shop.add", n, times=n, depends_on=job)
        failing = outbox.enqueue(connection, "shop.fail", 5)
        outbox.enqueue(connection, "shop.add", 6, depends_on=failing)
        allowed = Dependency(jobs=[failing, job], allow_failure=True)
        outbox.enqueue(connection, "shop.add", 7, depends_on=allowed)
    with psycopg.connect(log.dsn) as connection:
        outbox.enqueue(connection, "shop.add", 8)
        connection.rollback()
        outbox.enqueue(connection, "shop.add", 9, depends_on=job)  # of an earlier transaction
        outbox.enqueue_in(connection, timedelta(seconds=1), "shop.add", 10)
        connection.execute("SELECT pgnotifier.enqueue_job('shop.add', '[11]')")
    jobs = shop.wait_written("jobs", 9)
    numbers = [n for n, _ in jobs]
    assert sorted(numbers) == [0, 1, 2, 3, 4, 7, 9, 10, 11]
    assert [n for n in numbers if n < 5] == [0, 1, 2, 3, 4]
    assert jobs[numbers.index(4)] == (4, 4)
    assert queue.deferred_job_registry.count == 1
    eventually(lambda: Job.fetch(job.id, connection=shop.redis).return_value() == 4)
    assert log.execute("SELECT count(*) FROM pgnotifier.failed") == [(0,)]
