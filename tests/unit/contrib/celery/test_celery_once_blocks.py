"""The block of a task that is done once: its connection, its rules, and how late it may come."""

import subprocess
import sys
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy
from celery import Celery
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from sqlalchemy.orm import sessionmaker

from pgnotifier._connection.parameters import make_parameters
from pgnotifier.contrib.celery import Once
from pgnotifier.contrib.celery.once_connections import Spares, close_spares
from pgnotifier.contrib.celery.once_upkeep import longest_redelivery
from pgnotifier.errors import AlreadyDoneError, ArgumentTypeError, ConfigurationError
from pgnotifier.once import once

EFFECT = "INSERT INTO effect VALUES ('a')"


@pytest.fixture
def app(log):
    """Return an app, with the table of effects in its database."""
    log.execute("CREATE TABLE effect (id text)")
    app = Celery("once", set_as_current=False)
    app.conf.pgnotifier_dsn = log.dsn
    return app


def effects(log):
    """Return how many effects there are."""
    return log.execute("SELECT count(*) FROM effect")[0][0]


def make(app, **options):
    """Return a task that is done once."""

    @app.task(bind=True, base=Once, **options)
    def work(self):
        with self.once() as connection:
            is_alchemy = "sqlalchemy" in type(connection).__module__
            connection.execute(sqlalchemy.text(EFFECT) if is_alchemy else EFFECT)
        return "done"

    return work


@pytest.mark.parametrize(
    "kind", ["default", "dsn", "dict", "pool", "engine", "sessions", "function", "static"]
)
def test_connections(log, app, kind):
    """Each way to open a connection gives the block a transaction."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(log.dsn)
    )
    with ConnectionPool(log.dsn, min_size=1, max_size=2, open=True) as pool:
        using = {
            "default": None,
            "dsn": log.dsn,
            "dict": {"dbname": log.connection.info.dbname, "host": log.connection.info.host},
            "pool": pool,
            "engine": engine,
            "sessions": sessionmaker(engine),
            "function": lambda: psycopg.connect(log.dsn),
            "static": staticmethod(lambda: psycopg.connect(log.dsn)),
        }[kind]
        if kind == "dict":
            using |= {"user": log.connection.info.user, "port": log.connection.info.port}
        work = make(app, once_using=using)
        assert work.apply(task_id="a").get() == "done"
        assert work.apply(task_id="a").get() is None
        assert work.apply(task_id="b").get() == "done"
        assert effects(log) == 2
        work()
        assert effects(log) == 3
    engine.dispose()


@pytest.mark.parametrize("using", [7, object(), psycopg.Connection])
def test_what_opens_nothing(app, using):
    """Anything else is refused."""
    with pytest.raises(ArgumentTypeError, match="once_using takes"):
        make(app, once_using=using).apply(task_id="a", throw=True)


def test_without_a_database(app):
    """Without a database, the error says what to set."""
    app.conf.pgnotifier_dsn = None
    with pytest.raises(ConfigurationError, match="pgnotifier_dsn"):
        make(app).apply(task_id="a", throw=True)


def test_blocks_in_blocks(log, app):
    """A block in an open block is a part of it; what else is done once there is, too."""

    @app.task(bind=True, base=Once)
    def work(self):
        with self.once() as outer:
            with self.once() as inner:
                assert inner is outer
                inner.execute(EFFECT)
            with once(outer, "other"):
                outer.execute(EFFECT)
        return "done"

    assert [work.apply(task_id="a").get() for _ in range(2)] == ["done", None]
    assert effects(log) == 2


def test_two_blocks(log, app):
    """A second block is refused: it would be left out if the worker died before it."""

    @app.task(bind=True, base=Once)
    def work(self):
        with self.once() as connection:
            connection.execute(EFFECT)
        with self.once():
            pytest.fail("the second block began")

    with pytest.raises(ConfigurationError, match="has had its block already"):
        work.apply(task_id="a", throw=True)
    assert effects(log) == 1


def test_a_block_that_failed(log, app):
    """After a block that was rolled back, the task may begin another one."""

    @app.task(bind=True, base=Once)
    def work(self):
        for divisor in (0, 1):
            try:
                with self.once() as connection:
                    connection.execute(EFFECT)
                    return 1 / divisor
            except Exception:  # noqa: BLE001 - as users do
                continue
        return None

    assert work.apply(task_id="a").get() == 1
    assert work.apply(task_id="a").get() is None
    assert effects(log) == 1


def test_replacing(log, app):
    """What replaces a task that runs eagerly is done as well, at each level, and once."""

    @app.task(bind=True, base=Once)
    def work(self, left):
        with self.once() as connection:
            connection.execute(EFFECT)
        return self.replace(work.s(left - 1)) if left else "done"

    assert work.apply((2,), task_id="a").get() == "done"
    assert work.apply((2,), task_id="a").get() is None
    assert effects(log) == 3
    for noted in ("a", "a:replacement-1", "a:replacement-2"):
        with pytest.raises(AlreadyDoneError), once(log.connection, noted):
            pytest.fail("it wasn't noted")


_AUTO = {"autoretry_for": (OSError,)}


@pytest.mark.parametrize(
    ("broker", "transport", "options", "needed"),
    [
        ("redis://", {}, {"max_retries": 3, "default_retry_delay": 60}, 3600 + 180),
        ("redis://", {"visibility_timeout": 60}, {"max_retries": 0}, 60),
        ("sqs://", {}, {"max_retries": None, "default_retry_delay": 5}, 1800 + 5),
        ("amqp://", {}, {"max_retries": 2, "default_retry_delay": 9, **_AUTO}, 18),
        (
            "amqp://",
            {},
            {**_AUTO, "default_retry_delay": 1, "retry_backoff": 1, "retry_backoff_max": 9},
            27,
        ),
        ("amqp://", {}, {**_AUTO, "retry_kwargs": {"max_retries": 10, "countdown": 86400}}, 864000),
        ("amqp://", {}, {**_AUTO, "retry_kwargs": {"countdown": 200}}, 600),
        ("amqp://", {}, {**_AUTO, "retry_kwargs": {"max_retries": 5}}, 900),
        ("amqp://", {}, {**_AUTO, "retry_kwargs": {"max_retries": None, "countdown": 70}}, 540),
        ("amqp://", {}, {"retry_kwargs": {"max_retries": 5}}, 540),
        (["amqp://a", "sqs://b", "redis://c"], {}, {"max_retries": 0}, 3600),
        ("amqp://a;sqs://b", {}, {"max_retries": 0}, 1800),
        ("sentinel://a;sentinel://b", {}, {"max_retries": 0}, 3600),
        ("amqp://", {}, {"max_retries": float("inf"), "default_retry_delay": 5}, 5),
        ("amqp://", {}, {"max_retries": float("inf"), "default_retry_delay": 0}, 0),
        ("amqp://", {}, {"max_retries": sys.maxsize, "default_retry_delay": 5}, 5),
    ],
)
def test_how_late_a_task_may_be_delivered(app, broker, transport, options, needed):
    """The visibility timeout and the pauses of retries are counted."""
    app.conf.update(broker_url=broker, broker_transport_options=transport)
    assert longest_redelivery(make(app, **options)) == timedelta(seconds=needed)


def test_settings_that_cannot_be_read(log, app, caplog):
    """If it isn't known how late a task may be delivered, the task succeeds nevertheless."""
    app.conf.update(broker_transport_options={"visibility_timeout": "an hour"})
    with caplog.at_level("DEBUG", "pgnotifier.celery"):
        assert make(app, name="unread").apply(task_id="a", throw=True).get() == "done"
    assert effects(log) == 1
    (record,) = (one for one in caplog.records if "keep_unchecked" in vars(one).values())
    assert record.error == "ValueError"


def test_what_a_task_has_set(log, app, make_role):
    """What a task sets on its connection isn't there for the next one; the DSN's settings are."""
    role, _ = make_role()
    app.conf.pgnotifier_dsn = make_conninfo(log.dsn, options="-c search_path=shop -c work_mem=5MB")
    names = ("row_factory", "cursor_factory", "prepare_threshold", "isolation_level", "autocommit")
    seen = []

    @app.task(bind=True, base=Once)
    def look(self):
        with self.once() as connection:
            cursor = connection.execute(
                "SELECT current_user, current_setting('search_path'), current_setting('work_mem')"
            )
            seen.append((connection.info.backend_pid, type(cursor), cursor.fetchone()))
        seen.append([getattr(connection, name) for name in names])

    @app.task(bind=True, base=Once)
    def change(self):
        with self.once() as connection:
            connection.execute("SET work_mem = '7MB'; SET default_transaction_read_only = on")
            connection.execute("SELECT set_config('search_path', 'tenant_a', false)")
            connection.execute("CREATE TEMP TABLE mine (n int)")
            connection.execute("SELECT pg_advisory_lock(4711)")
            connection.execute(f"SET ROLE {role}")
            connection.row_factory = dict_row
            connection.cursor_factory = psycopg.ClientCursor
            connection.prepare_threshold = 0

    for n, task in enumerate((look, change, change, look)):
        task.apply(task_id=str(n), throw=True)
    (pid, _, settings), _, *again = seen
    assert seen[:2] == again
    assert settings == (log.connection.info.user, "shop", "5MB")
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
    assert log.execute(locks, pid) == [(0,)]
    close_spares()


def test_what_is_set_after_a_block(log):
    """What can't be set in a transaction is restored as well."""
    spares = Spares(make_parameters(log.dsn))
    with spares.lease() as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.read_only = connection.deferrable = True
        connection.autocommit = False
    with spares.lease() as again:
        assert again is connection
        assert (again.isolation_level, again.read_only, again.deferrable) == (None, None, None)
        assert again.autocommit
    spares.close()


def test_connections_are_closed_at_the_end(log, app):
    """What is kept for the next task is closed when the process ends."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    ((before,),) = log.execute(count)
    work = make(app)
    work.apply(throw=True)
    assert log.execute(count) == [(before + 1,)]
    close_spares()
    work.apply(throw=True)  # a task that comes later still has its effects
    assert effects(log) == 2
    close_spares()


WITHOUT_DJANGO = """
import sys
from celery import Celery
from pgnotifier.contrib.celery import Once

@Celery("once").task(base=Once)
def task():
    pass

print([hasattr(task, name) for name in ("delay_on_commit", "apply_async_on_commit", "once")])
print([name for name in ("django.conf", "django.db") if name in sys.modules])
try:
    task.delay_on_commit()
except AttributeError as exc:
    print(exc)
"""


@pytest.mark.slow
@pytest.mark.parametrize("settings", [None, "nowhere"])
def test_tasks_without_django(settings):
    """Without Django, a task lacks the methods of Django's tasks, and nothing is imported."""
    hidden = "import sys; sys.modules['django'] = None" if settings else ""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", hidden + WITHOUT_DJANGO],
        env={"DJANGO_SETTINGS_MODULE": settings} if settings else {},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    has, imported, error = done.stdout.splitlines()
    assert has == "[False, False, True]"
    assert imported == "[]"  # kombu imports a part of Django itself
    assert "no attribute 'delay_on_commit'" in error
