"""The durable log and its competitors, in one database: how each is installed, filled and emptied.

The outbox is what people write by hand: a table that writers INSERT into, and a reader that takes
rows out by `DELETE … FOR UPDATE SKIP LOCKED`. The others are packages, installed by themselves.
"""

import asyncio
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from names import FUNCTION, OURS, OUTBOX, OUTBOX_NOTIFY, PGPUBSUB, PGQUEUER, PLAIN, PROCRASTINATE
from psycopg.conninfo import conninfo_to_dict

from pgnotifier import durable
from pgnotifier.testing.wheels import find_postgres

CHANNEL = "bench"
LATENCY_CHANNELS = {OURS: "bench_durable", PLAIN: "bench_plain"}
PAYLOAD = '{"order": 12345, "item": "tea", "amount": 3}'

START = 4711
"""The number of the advisory lock that the parent holds until its children may begin."""

SETUP = """
CREATE TABLE outbox (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    channel text NOT NULL,
    key text,
    payload text NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
)
"""
TAKE = """
DELETE FROM outbox WHERE id = ANY (ARRAY(
    SELECT id FROM outbox ORDER BY id LIMIT {limit} FOR UPDATE SKIP LOCKED
)) RETURNING id, payload
"""
"""Takes a batch out of the outbox, in the way that was the fastest of those that were tried."""

PUBLISH: Mapping[str, str] = {
    OURS: "INSERT INTO pgnotifier.log (channel, key, payload) "
    "VALUES (:channel::text, NULL, :payload::text) RETURNING id",
    FUNCTION: "SELECT pgnotifier.publish(:channel::text, :payload::text)",
    OUTBOX: "INSERT INTO outbox (channel, key, payload) "
    "VALUES (:channel, NULL, :payload) RETURNING id",
    OUTBOX_NOTIFY: "INSERT INTO outbox (channel, key, payload) "
    "VALUES (:channel, NULL, :payload) RETURNING id, pg_notify('woken', '')",
    PLAIN: "SELECT pg_notify(:channel, :payload)",
    PGQUEUER: "INSERT INTO pgqueuer (priority, entrypoint, payload, status) "
    "VALUES (0, :channel, convert_to(:payload, 'UTF8'), 'queued') RETURNING id",
    PROCRASTINATE: "SELECT unnest(procrastinate_defer_jobs_v1(ARRAY[ROW('default', :channel, 0, "
    "NULL, NULL, :payload::jsonb, NULL)::procrastinate_job_to_defer_v1])) AS id",
    PGPUBSUB: "WITH given AS ("
    "SELECT json_build_object('kwargs', :payload::json)::text AS payload"
    "), sent AS (SELECT payload, pg_notify('{pgpubsub}', payload) FROM given) "
    "INSERT INTO pgpubsub_notification (channel, payload) "
    "SELECT '{pgpubsub}', payload::jsonb FROM sent RETURNING id",
}
"""What each executes for one publication. `:name` stands for an argument, as in pgbench."""

TABLES = ("outbox", "pgqueuer", "procrastinate_jobs", "pgpubsub_notification")


def install(dsn: str) -> None:
    """Install all of them, unless they are there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        if not durable.install(connection):
            return
        connection.execute(SETUP)
    _install_procrastinate(dsn)
    asyncio.run(_install_pgqueuer(dsn))
    _install_pgpubsub(dsn)


def empty(dsn: str) -> None:
    """Forget all that was published, and all positions."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM pgnotifier.subscription")
        for name in ("pgnotifier.log", *TABLES):
            connection.execute(f"TRUNCATE {name} CASCADE".encode())
        connection.execute("CHECKPOINT")


def fill(dsn: str, name: str, count: int) -> None:
    """Publish, each publication in its own transaction, as applications do."""
    statement = PUBLISH[name].format(pgpubsub=pgpubsub_channel())
    statement = statement.replace(":channel", f"'{CHANNEL}'").replace(":payload", f"'{PAYLOAD}'")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(
            # A loop in the server, and no result: `INTO` keeps the first column.
            "DO $$ DECLARE made text; BEGIN "
            f"FOR n IN 1..{count} LOOP EXECUTE $q${statement}$q$ INTO made; COMMIT; END LOOP; "
            "END $$".encode()
        )
        connection.execute(f"VACUUM ANALYZE {', '.join(TABLES)}".encode())


def pgbench(
    dsn: str, script: Path, clients: int, amount: str, rate: int | None = None
) -> list[str]:
    """Return the command that executes a script again and again.

    Args:
        dsn: The database.
        script: The statements of a transaction. They can use `:channel` and `:payload`.
        clients: How many connections do so.
        amount: How often: `--time=` in seconds, or `--transactions=` of each connection.
        rate: How many a second; None for as many as can be.
    """
    parts = conninfo_to_dict(dsn)
    return [
        *(str(find_postgres() / "bin" / "pgbench"), "--no-vacuum", "--protocol=prepared"),
        *(f"--client={clients}", "--jobs=2", amount, f"--file={script}"),
        *([] if rate is None else [f"--rate={rate}"]),
        *("-D", f"channel={CHANNEL}", "-D", f"payload={PAYLOAD}"),
        *("-h", str(parts["host"]), "-p", str(parts["port"]), "-U", str(parts["user"])),
        str(parts["dbname"]),
    ]


def _install_procrastinate(dsn: str) -> None:
    from procrastinate import App, SyncPsycopgConnector

    with App(connector=SyncPsycopgConnector(conninfo=dsn)).open() as app:
        app.schema_manager.apply_schema()


async def _install_pgqueuer(dsn: str) -> None:
    from pgqueuer import Queries

    connection = await connect_asyncpg(dsn)
    try:
        await Queries.from_asyncpg_connection(connection).install()
    finally:
        await connection.close()


async def connect_asyncpg(dsn: str) -> Any:
    """Connect with the driver that pgqueuer's documentation uses."""
    import asyncpg

    parts: dict[str, Any] = conninfo_to_dict(dsn)
    parts["database"] = parts.pop("dbname")
    connect: Any = asyncpg.connect  # has no types
    return await connect(**parts)


def _install_pgpubsub(dsn: str) -> None:
    from django.core.management import call_command

    set_up_django(dsn)
    call_command("migrate", verbosity=0)


def set_up_django(dsn: str) -> None:
    """Set Django up with django-pgpubsub, once in a process."""
    import django
    from django.conf import settings

    if settings.configured:
        return
    os.environ["PGPUBSUB_USE_PSYCOPG_V3"] = "True"
    parts: dict[str, Any] = conninfo_to_dict(dsn)
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": parts.pop("dbname")}
    settings.configure(
        DATABASES={"default": database | {name.upper(): part for name, part in parts.items()}},
        INSTALLED_APPS=["pgtrigger", "pgpubsub"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()


def pgpubsub_channel() -> str:
    """Return the name that django-pgpubsub gives to the channel of the benchmarks."""
    name = hashlib.sha1(b"pgpubsub_channels.Orders").hexdigest()
    return f"pgpubsub_{name[:5]}"
