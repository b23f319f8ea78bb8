"""Install the schema of the durable log, upgrade it, check it, and grant rights to it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from pgnotifier._log import versions
from pgnotifier._log.refusals import translated
from pgnotifier.durability import MAX_INTEGER
from pgnotifier.errors import (
    ArgumentTypeError,
    ConfigurationError,
    LogNotInstalledError,
    LogRefusedError,
)

VERSION = 4
"""The version of the schema that this version of pgnotifier installs, and needs."""
GRANTS_SINCE = 4
"""The first version that has the rights below."""
LIMITS_SINCE = 2
"""The first version that has a retention and a quota."""

Part = Literal["publisher", "listener", "enqueuer", "worker"]
"""What a role may do: publish; read the log and move positions; publish and enqueue tasks; or note
what it has done."""

PARTS_SINCE: Mapping[Part, int] = {"publisher": 1, "listener": 1, "enqueuer": 3, "worker": 3}
"""The first version that has each part."""

_OWNER = """
SELECT pg_catalog.pg_get_userbyid(nspowner),
    pg_catalog.pg_get_userbyid(nspowner) OPERATOR(pg_catalog.=) CURRENT_USER
FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'pgnotifier'
"""
_VERSION = "SELECT version FROM pgnotifier.installed"
_CONFIGURE = """
SELECT pgnotifier.configure(%s::pg_catalog.interval, %s::pg_catalog.int8)
"""
_ONE_BY_ONE = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
"""Each statement sees what others have committed: those who install at once wait for each other."""
_DROP = "DROP SCHEMA IF EXISTS pgnotifier CASCADE"

_PUBLISHER = """
GRANT USAGE ON SCHEMA pgnotifier TO {role};
GRANT INSERT (channel, key, payload), SELECT (id) ON pgnotifier.log TO {role};
GRANT SELECT ON SEQUENCE pgnotifier.bell, pgnotifier.slot TO {role};
GRANT EXECUTE ON FUNCTION
    pgnotifier.lock_keys(text, text[]),
    pgnotifier.publish(text, text, text, boolean),
    pgnotifier.publish(text, jsonb, text, boolean),
    pgnotifier.ring(),
    pgnotifier.snapshot()
TO {role};
"""  # not USAGE of the sequences, with which a publisher could also write them
_ENQUEUER = """
GRANT EXECUTE ON FUNCTION
    pgnotifier.enqueue(
        text, jsonb, jsonb, text, interval, timestamptz, timestamptz, int, jsonb, uuid, text
    ),
    pgnotifier.enqueue_job(
        text, jsonb, jsonb, text, interval, timestamptz, int, int, int, int, text, jsonb, uuid, text
    ),
    pgnotifier.may_enqueue(),
    pgnotifier.open_outbox(text, text)
TO {role};
"""
_GRANTS: dict[Part, str] = {
    "publisher": _PUBLISHER,
    "enqueuer": f"{_PUBLISHER.rstrip()}{_ENQUEUER}",
    "listener": """
GRANT USAGE ON SCHEMA pgnotifier TO {role};
GRANT SELECT ON
    pgnotifier.failed,
    pgnotifier.gap,
    pgnotifier.installed,
    pgnotifier.limits,
    pgnotifier.log,
    pgnotifier.log_id_seq,
    pgnotifier.max_lag,
    pgnotifier.position,
    pgnotifier.positions,
    pgnotifier.reader,
    pgnotifier.slot,
    pgnotifier.subscription
TO {role};
GRANT EXECUTE ON FUNCTION
    pgnotifier.advance(
        int, int, bigint, pg_snapshot, int, boolean, pg_snapshot, bigint, boolean,
        pg_snapshot, pg_snapshot, bigint, boolean
    ),
    pgnotifier.awake(boolean),
    pgnotifier.batch(text, pg_snapshot, pg_snapshot, bigint, int),
    pgnotifier.count_waiting(int, int),
    pgnotifier.doze(),
    pgnotifier.drop_failed(bigint[]),
    pgnotifier.drop_gaps(bigint[]),
    pgnotifier.due(int, int, bigint),
    pgnotifier.fail(
        int, bigint, timestamptz, text, bytea, bytea, text, text, double precision, boolean
    ),
    pgnotifier.fail_again(bigint, text, text, double precision, boolean),
    pgnotifier.find_unread(interval),
    pgnotifier.forget(text, text),
    pgnotifier.hold(int),
    pgnotifier.is_native(int, bigint),
    pgnotifier.limit_lag(int, bigint, bigint, interval),
    pgnotifier.list_outbox(int, int, boolean, bigint[], text, text, boolean),
    pgnotifier.list_positions(),
    pgnotifier.lock_holders(),
    pgnotifier.measure(int),
    pgnotifier.move(int, bigint, pg_snapshot, pg_snapshot, bigint),
    pgnotifier.note_keys(int, bytea[], double precision[]),
    pgnotifier.note_reader(int[], double precision[]),
    pgnotifier.read(text, pg_snapshot, pg_snapshot, bigint, int, bigint),
    pgnotifier.reanchor(),
    pgnotifier.reclaim(interval, bigint, interval),
    pgnotifier.reclaim_done(),
    pgnotifier.retry(bigint[]),
    pgnotifier.save(int, pg_snapshot, pg_snapshot, bigint),
    pgnotifier.seek(text, text, text, bigint, timestamptz),
    pgnotifier.set_aside(int, bigint[], text),
    pgnotifier.slots(),
    pgnotifier.subscribe(text, text, text, bigint, timestamptz),
    pgnotifier.take(int, bigint, pg_snapshot),
    pgnotifier.take_gaps(int)
TO {role};
""",
    "worker": """
GRANT USAGE ON SCHEMA pgnotifier TO {role};
GRANT EXECUTE ON FUNCTION pgnotifier.once(text), pgnotifier.reclaim_done() TO {role};
""",
}
"""The rights since `GRANTS_SINCE`. Those of older versions are in files beside their statements."""


def script(
    since: int = 0,
    version: int = VERSION,
    *,
    retention: timedelta | None = None,
    quota: int | None = None,
) -> str:
    """Return the statements that install the schema, or upgrade it. They need one transaction.

    Args:
        since: The version that is installed. Default: none.
        version: The version to install. Default: the newest.
        retention: As for `install`.
        quota: As for `install`.

    Raises:
        ArgumentTypeError: An argument has the wrong type.
        ConfigurationError: There is no such version, or it isn't newer; or a limit is wrong.
    """
    _check_versions(since, version)
    settings = _check_limits(retention, quota, version)
    steps = versions.read_steps(since, version)
    if settings is None:
        return versions.make_script(steps, since)
    literals = (sql.Literal(one).as_string(None) for one in settings)
    return versions.make_script(steps, since, _CONFIGURE.strip() % tuple(literals) + ";")


def statement(since: int = 0, version: int = VERSION) -> str:
    """Return the same as one statement, which does only what isn't done yet."""
    _check_versions(since, version)
    return versions.make_statement(versions.read_steps(since, version), since)


def uninstall_script() -> str:
    """Return the statement that drops the schema with all entries and positions."""
    return f"{_DROP};\n"


def grant_script(role: str, part: Part, version: int = VERSION) -> str:
    """Return the statements that grant a role the rights of a part.

    They need one transaction.

    Args:
        role: The name of the role.
        part: "publisher", "listener", "enqueuer" or "worker".
        version: The version that is installed then. Default: the newest.

    Raises:
        ArgumentTypeError: There is no such part.
        ConfigurationError: There is no such version, or it doesn't have that part yet.
    """
    _check_versions(0, version)
    if part not in _GRANTS:
        parts = " or ".join(map(repr, _GRANTS))
        raise ArgumentTypeError(f"a role can be a {parts}, not {part!r}")
    if version < (needed := PARTS_SINCE[part]):
        raise ConfigurationError(
            f"the rights of the part {part!r} need version {needed} of the log, and it has "
            f"version {version}. Run: pgnotifier install"
        )
    to = sql.Identifier(role).as_string(None)
    grants = {
        number: versions.read_grants(number, part).format(role=to)
        for number in range(version, GRANTS_SINCE)
    }
    newest = _GRANTS[part].format(role=to)
    if not grants:
        return versions.in_transaction(newest)
    return versions.in_transaction(*versions.choose_grants({**grants, GRANTS_SINCE: newest}))


def install(
    connection: psycopg.Connection[Any],
    version: int = VERSION,
    *,
    retention: timedelta | None = None,
    quota: int | None = None,
) -> bool:
    """Install the schema, or upgrade it; return whether there was anything to do.

    It may be called from several places at once. It uses the connection's transaction, if one is
    open, and else one of its own.

    Args:
        connection: A connection of the role that is to own the schema, or owns it.
        version: The version to install. A newer one is left as it is. Default: the newest.
        retention: How long entries are kept at least, so that they can be replayed. Default: as
            before; at first, until each subscription has got them.
        quota: How many bytes the log may have. Beyond that, publications are refused. 0 stands for
            any number. Default: as before; at first, any number.

    Raises:
        ArgumentTypeError: The retention isn't a timedelta, or the quota isn't an int.
        ConfigurationError: One of them is negative, or too high; or there is no such version.
        LogRefusedError: The schema belongs to another role, or a privilege is missing.
    """
    _check_versions(0, version)
    settings = _check_limits(retention, quota, version)
    is_changed = False
    is_ours = connection.info.transaction_status is TransactionStatus.IDLE
    with translated("install the durable log"), connection.transaction():
        if is_ours:  # or else it wouldn't see what another one has installed meanwhile
            connection.execute(_ONE_BY_ONE, prepare=False)
        connection.execute(versions.BEGIN.encode(), prepare=False)
        found = _installed_version(connection)
        for step in versions.read_steps(found, version).values():
            connection.execute(step.encode(), prepare=False)
        if settings is not None:
            row = connection.execute(_CONFIGURE, settings).fetchone()
            is_changed = row is not None and bool(row[0])
        connection.execute(versions.END.encode(), prepare=False)
    return is_changed or found < version


def uninstall(connection: psycopg.Connection[Any]) -> bool:
    """Drop the schema with all entries and positions; return whether there was one.

    Raises:
        LogRefusedError: The schema belongs to another role.
    """
    with translated("uninstall the durable log"), connection.transaction():
        if not _is_there(connection):
            return False
        connection.execute(_DROP)
    return True


def grant(connection: psycopg.Connection[Any], role: str, part: Part) -> None:
    """Grant a role the rights of a part. An upgrade keeps them.

    Args:
        connection: A connection of the role that owns the log.
        role: The name of the role.
        part: "publisher", "listener", "enqueuer" or "worker".

    Raises:
        ArgumentTypeError: There is no such part.
        ConfigurationError: The installed version doesn't have that part yet.
        LogRefusedError: There is no such role, or the schema belongs to another one.
    """
    grant_script(role, part)  # which finds a wrong part before anything is executed
    with translated(f"grant rights to {role!r}"), connection.transaction():
        row = connection.execute(_OWNER).fetchone()
        is_ours = row is not None and row[1]
        version = _installed_version(connection) if is_ours else VERSION
        statements = grant_script(role, part, min(version, VERSION))
        connection.execute(statements.encode(), prepare=False)


def check(connection: psycopg.Connection[Any]) -> int:
    """Return the version of the schema, if it is one that this pgnotifier can use.

    Raises:
        LogNotInstalledError: The schema isn't installed, or is too old.
        LogRefusedError: The role has no right to use it.
        ConnectionFailedError: The connection is lost.
    """
    with translated("use the durable log"):
        try:
            row = connection.execute(_VERSION).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            raise LogNotInstalledError(
                f"database {connection.info.dbname!r} has no durable log. Run: pgnotifier install"
            ) from None
    if row is None:
        raise LogNotInstalledError(_without_content(connection))
    version = int(row[0])
    if version < VERSION:
        raise LogNotInstalledError(
            f"the durable log in database {connection.info.dbname!r} has version {version}, and "
            f"this pgnotifier needs {VERSION}. Run: pgnotifier install"
        )
    return version


def _check_versions(since: object, version: object) -> None:
    for one in (since, version):
        if not isinstance(one, int) or isinstance(one, bool):
            raise ArgumentTypeError(f"a version of the durable log is an int, not {one!r:.80}")
    if not 0 <= since < version <= VERSION:  # type: ignore[operator]
        raise ConfigurationError(
            f"can't bring the durable log from version {since} to {version}: this pgnotifier has "
            f"the versions 1 to {VERSION}"
        )


def _check_limits(
    retention: timedelta | None, quota: int | None, version: int
) -> tuple[str | None, int | None] | None:
    """Return what the schema's function takes; None if nothing is to be set."""
    if retention is None and quota is None:
        return None
    if version < LIMITS_SINCE:
        raise ConfigurationError(
            f"the retention and the quota need version {LIMITS_SINCE} of the log"
        )
    if retention is not None and not isinstance(retention, timedelta):
        raise ArgumentTypeError(f"the retention must be a timedelta, not {retention!r:.80}")
    if retention is not None and retention < timedelta():
        raise ConfigurationError(f"the retention can't be negative: {retention}")
    if quota is not None and type(quota) is not int:
        raise ArgumentTypeError(f"the quota must be an integer, in bytes, not {quota!r:.80}")
    if quota is not None and not 0 <= quota <= MAX_INTEGER:
        raise ConfigurationError(f"the quota must be from 0 to {MAX_INTEGER}, not {quota}")
    return None if retention is None else f"{retention.total_seconds():f} s", quota


def _installed_version(connection: psycopg.Connection[Any]) -> int:
    if not _is_there(connection):
        return 0
    row = connection.execute(_VERSION).fetchone()
    if row is None:
        raise LogRefusedError(_without_content(connection))
    return int(row[0])


def _without_content(connection: psycopg.Connection[Any]) -> str:
    """Return an error text with advice for a schema copied by `pg_dump --schema-only`, say."""
    return (
        f"the durable log in database {connection.info.dbname!r} has no content: its schema was "
        "copied alone, or the copy has not finished. If it has, run: pgnotifier uninstall, and "
        "then: pgnotifier install"
    )


def _is_there(connection: psycopg.Connection[Any]) -> bool:
    """Return whether the schema is there.

    Raises:
        LogRefusedError: It belongs to another role, which could have put a view there that executes
            its functions with our rights.
    """
    row = connection.execute(_OWNER).fetchone()
    if row is None:
        return False
    owner, is_ours = row
    if not is_ours:
        raise LogRefusedError(
            f"the schema pgnotifier in database {connection.info.dbname!r} belongs to role "
            f"{owner!r}. Connect as this role, or SET ROLE to it"
        )
    return True
