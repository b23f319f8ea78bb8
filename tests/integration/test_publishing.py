"""Publishing in the caller's transaction: on psycopg, psycopg2 and SQLAlchemy, sync and async."""

import asyncio
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from decimal import Decimal

import psycopg
import psycopg2
import psycopg2.extras
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pgnotifier.durable import apublish, apublish_many, install, publish, publish_many
from pgnotifier.errors import (
    ArgumentTypeError,
    ChannelNameError,
    EntryKeyError,
    LogNotInstalledError,
    PayloadEncodingError,
    PayloadTooLargeError,
)
from pgnotifier.payload import decode

HARD = ["", "text", "42", "it's \\ %s %(a)s :b {x}", 'q"uo\\"te', "ü😀\n\t\x7f", "NULL", "{a,b}"]
HARD += ["nul \0 within", "\ud800 alone", 2**64, None, b"\x00\xff", (1, 2), {"a": [1.5, None]}]
KINDS = (
    *("connection", "cursor", "dict rows", "client cursor", "pipeline"),
    *("psycopg2", "psycopg2 dict rows", "sqlalchemy", "orm", "scoped", "sqlalchemy psycopg2"),
    *("async", "async cursor", "sqlalchemy async", "orm async", "scoped async"),
    "sqlalchemy asyncpg",
)


class Caller:
    """A connection of some kind: it calls the sync functions, or awaits the async ones."""

    def __init__(self, given, run=None):
        self.given = given
        self._run = run

    def publish(self, *args, **options):
        """Publish an entry."""
        if self._run is None:
            return publish(self.given, *args, **options)
        return self._run(apublish(self.given, *args, **options))

    def publish_many(self, *args, **options):
        """Publish many."""
        if self._run is None:
            return publish_many(self.given, *args, **options)
        return self._run(apublish_many(self.given, *args, **options))

    def commit(self):
        """Commit."""
        self._end("commit")

    def rollback(self):
        """Roll back."""
        self._end("rollback")

    def _end(self, how):
        connection = self.given if hasattr(self.given, "commit") else self.given.connection
        done = getattr(connection, how)()
        if self._run is not None:
            self._run(done)


def url(dsn, driver="psycopg"):
    """Return the address of a database, as SQLAlchemy takes it."""
    given = conninfo_to_dict(dsn)
    return sqlalchemy.URL.create(
        f"postgresql+{driver}",
        username=given.get("user"),
        host="" if given["host"].startswith("/") else given["host"],
        port=int(given["port"]),
        database=given["dbname"],
        query={"host": given["host"]} if given["host"].startswith("/") else {},
    )


@contextmanager
def connected(kind, dsn):
    """Yield a caller with a connection of a kind."""
    if "async" in kind:
        with asyncio.Runner() as runner:
            manager = connected_async(kind, dsn)
            yield Caller(runner.run(manager.__aenter__()), runner.run)
            runner.run(manager.__aexit__(None, None, None))
    elif kind.startswith("psycopg2"):
        factory = psycopg2.extras.RealDictCursor if "dict" in kind else None
        with psycopg2.connect(dsn, cursor_factory=factory) as connection:
            yield Caller(connection)
        connection.close()
    elif kind in ("sqlalchemy", "sqlalchemy psycopg2", "orm", "scoped"):
        driver = "psycopg2" if "psycopg2" in kind else "psycopg"
        engine = sqlalchemy.create_engine(url(dsn, driver))
        make = {"orm": lambda: Session(engine), "scoped": scoped_session(sessionmaker(engine))}
        connection = make.get(kind, engine.connect)()
        yield Caller(connection)
        connection.close()
        engine.dispose()
    else:
        options = {"dict rows": {"row_factory": dict_row}}.get(kind, {})
        if kind == "client cursor":
            options["cursor_factory"] = psycopg.ClientCursor
        with psycopg.connect(dsn, **options) as connection:
            if kind == "pipeline":
                with connection.pipeline():
                    yield Caller(connection)
            else:
                yield Caller(connection.cursor() if kind == "cursor" else connection)


@asynccontextmanager
async def connected_async(kind, dsn):
    """Yield a connection for asyncio of a kind."""
    if kind.startswith("async"):
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            yield connection.cursor() if "cursor" in kind else connection
        return
    engine = create_async_engine(url(dsn, "asyncpg" if "asyncpg" in kind else "psycopg"))
    if "scoped" in kind:  # otherwise each of the runner's tasks would have a session of its own
        scope = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: None)
        yield scope
        await scope.close()
    else:
        async with AsyncSession(engine) if "orm" in kind else engine.connect() as connection:
            yield connection
    await engine.dispose()


@pytest.fixture
def log(pgnotifier_dsn):
    """Yield a session in a database with the log, with a method to read the log."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
        install(connection)
        yield connection


def entries(log):
    """Return what was published, in order: channel, key, payload."""
    rows = log.execute("SELECT channel, key, payload FROM pgnotifier.log ORDER BY id").fetchall()
    return [(channel, key, decode(payload)) for channel, key, payload in rows]


def ids(log):
    """Return the ids of what was published."""
    return [one for (one,) in log.execute("SELECT id FROM pgnotifier.log ORDER BY id")]


@pytest.fixture(params=KINDS)
def caller(request, log, pgnotifier_dsn):
    """Yield a caller with each kind of connection."""
    with connected(request.param, pgnotifier_dsn) as caller:
        yield caller


def test_published_with_the_transaction(caller, log):
    """What is published is there after the commit, and only then; the id is the entry's."""
    first = caller.publish("orders", {"id": 7})
    second = caller.publish("orders", "x", "k")
    assert entries(log) == []
    caller.commit()
    assert entries(log) == [("orders", None, {"id": 7}), ("orders", "k", "x")]
    assert [first, second] == ids(log)


def test_rolled_back(caller, log):
    """What is rolled back is never there."""
    caller.publish("orders", 1)
    caller.publish_many("orders", [2, 3])
    caller.rollback()
    caller.publish("orders", 4)
    caller.commit()
    assert entries(log) == [("orders", None, 4)]


def test_values_are_kept(caller, log):
    """Each value is read as it was published, one by one and many at once, in order."""
    made = [caller.publish("a", value, key="ü\"'\\,{}") for value in HARD]
    made += caller.publish_many("b", iter(HARD), key=lambda value: f"{value!r}"[:50])
    caller.commit()
    assert [value for _, _, value in entries(log)] == [*HARD, *HARD]
    keys = [key for _, key, _ in entries(log)]
    assert keys == ["ü\"'\\,{}"] * len(HARD) + [f"{value!r}"[:50] for value in HARD]
    assert made == ids(log)


def test_many(caller, log):
    """Thousands are published in order, in several statements; none is nothing."""
    made = caller.publish_many("a", range(2500), key="same")
    assert caller.publish_many("a", []) == []
    caller.commit()
    assert entries(log) == [("a", "same", number) for number in range(2500)]
    assert made == ids(log)


def test_in_order_of_keys(caller, log):
    """With order="key", keys are locked until the transaction ends."""
    caller.publish("a", 1, "k", order="key")
    caller.publish_many("a", ["x", "y", "x"], key=lambda one: one, order="key")
    assert caller.publish_many("a", [], order="key") == []
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    assert log.execute(held).fetchone() == (3,)
    caller.commit()
    assert [payload for _, _, payload in entries(log)] == [1, "x", "y", "x"]
    assert log.execute(held).fetchone() == (0,)


def test_errors_before_the_server(caller, log):
    """What can't be published is refused before the server knows, so the transaction goes on."""
    refused = [
        (PayloadEncodingError, ("a", object()), {}),
        (ChannelNameError, ("", 1), {}),
        (ChannelNameError, ("ü" * 32, 1), {}),
        (ArgumentTypeError, (5, 1), {}),
        (ArgumentTypeError, ("a", 1, 7), {}),
        (EntryKeyError, ("a", 1, "k" * 1025), {}),
        (EntryKeyError, ("a", 1, "\0"), {}),
        (EntryKeyError, ("a", 1, "\ud800"), {}),
        (EntryKeyError, ("a", 1), {"order": "key"}),
        (ArgumentTypeError, ("a", 1, "k"), {"order": "id"}),
        (ArgumentTypeError, ("a", 1), {"encoder": 5}),
        (PayloadTooLargeError, ("a", "x" * ((64 << 20) + 1)), {}),
    ]
    caller.publish("a", "before")
    for error, arguments, options in refused:
        with pytest.raises(error):
            caller.publish(*arguments, **options)
    for payloads in ("text", b"bytes", 5, [1, object()]):
        with pytest.raises((ArgumentTypeError, PayloadEncodingError)):
            caller.publish_many("a", payloads)
    caller.publish("a", "after", "k" * 1024)
    caller.commit()
    assert [payload for _, _, payload in entries(log)] == ["before", "after"]


def test_without_a_log(caller, log):
    """If the log isn't installed, the error says what to run."""
    log.execute("DROP SCHEMA pgnotifier CASCADE")
    for call, given in ((caller.publish, "one"), (caller.publish_many, ["one"])):
        with pytest.raises(LogNotInstalledError, match="pgnotifier install") as caught:
            call("a", given)
        assert isinstance(caught.value, LookupError)
        caller.rollback()


def test_notifying(caller, log, pgnotifier_dsn):
    """With `notify`, volatile listeners get what is published, and references to what is long."""
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as listener:
        listener.execute("LISTEN a; LISTEN pgnotifier_reference")
        long = "x" * 8000
        made = [caller.publish("a", "one", notify=True)]
        made.append(caller.publish("a", "two", "k", order="key", notify=True))
        made += caller.publish_many("a", [3, long, 4], notify=True)
        made += caller.publish_many("a", [{"n": 5}], "k", order="key", notify=True)
        caller.publish("a", "quiet")
        caller.commit()
        came = [*listener.notifies(timeout=60, stop_after=6)]
    assert [decode(one.payload) for one in came if one.channel == "a"] == [
        "one",
        "two",
        3,
        4,
        {"n": 5},
    ]
    assert came[3].channel == "pgnotifier_reference"
    assert came[3].payload.split()[1:] == [str(made[3]), "a"]
    assert made == ids(log)[:-1]
    assert [key for _, key, _ in entries(log)] == [None, "k", None, None, None, "k", None]


def test_encoder(caller, log):
    """`encoder` is used as by `encode`."""
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    caller.publish("a", [at, Decimal("1.50")])
    caller.publish_many("a", [[at]], encoder=lambda one: str(one))
    caller.commit()
    assert [payload for _, _, payload in entries(log)] == [
        ["2026-01-02T03:04:00Z", "1.50"],
        ["2026-01-02 03:04:00+00:00"],
    ]
