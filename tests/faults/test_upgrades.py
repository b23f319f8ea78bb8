"""Moves that keep the positions, while a notifier runs: pg_upgrade, and a standby's promotion."""

import os
import re
import subprocess
import threading
from pathlib import Path

import pytest
from database import Database
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from published import DurableLog

from pgnotifier.testing import PostgresServer
from pgnotifier.testing.wheels import POSTGRES_HOME, find_postgres

from .replica import Replica
from .waiting import eventually

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("quick")]

OLD_TOOLS = ("initdb", "postgres", "pg_controldata", "pg_ctl", "pg_resetwal")
NEW_TOOLS = (*OLD_TOOLS, "pg_dump", "pg_dumpall", "pg_restore", "pg_upgrade", "psql", "vacuumdb")
"""What pg_upgrade needs of the two versions."""
COUNT = 20


def has_tools(home, tools):
    """Return whether an installation has all of these programs."""
    return all((home / "bin" / name).is_file() for name in tools)


def find_older():
    """Return the home of an older version of PostgreSQL, which the system has."""
    new = find_postgres()
    command = [str(new / "bin" / "postgres"), "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    version = int(re.search(r"\(PostgreSQL\) (\d+)", answer)[1])
    if not has_tools(new, NEW_TOOLS):
        pytest.skip("this PostgreSQL has no pg_upgrade")
    for number in range(14, version):
        for home in (Path(f"/usr/lib/postgresql/{number}"), Path(f"/usr/pgsql-{number}")):
            if has_tools(home, OLD_TOOLS):
                return home
    missing = f"needs a PostgreSQL of the system that is older than {version}: run .ci/servers"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    return pytest.skip(missing)


class Upgraded(PostgresServer):
    """A server of the version under test, with the data of another one that has stopped."""

    def __init__(self, old, home):
        super().__init__()
        self._old, self._old_home = old, home

    def _make_data(self, process, home, installed):
        if home != installed:  # a copy, without these
            pairs = [(installed / "bin" / name, f"{home}/bin/{name}") for name in NEW_TOOLS]
            process.copy([pair for pair in pairs if not Path(pair[1]).exists()])
        directory, programs = process.directory, home / "bin"
        options = ["--encoding=UTF8", "--locale=C", "--auth=trust", "--no-sync"]
        if "no-data-checksums" in _help(programs / "initdb"):  # as older versions have it
            options.append("--no-data-checksums")
        process.run(
            [str(programs / "initdb"), "-D", f"{directory}/data", "-U", "postgres", *options]
        )
        old = Path(conninfo_to_dict(self._old.dsn)["host"])
        process.run(
            [
                str(programs / "pg_upgrade"),
                *("-b", str(self._old_home / "bin")),
                *("-B", str(programs)),
                *("-d", str(old / "data")),
                *("-D", str(directory / "data")),
                *("-U", "postgres"),
                *("-s", str(directory)),
            ]
        )


def _help(program):
    return subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout


class Slow:
    """A callback that waits in the middle, and records its calls."""

    def __init__(self):
        self.calls = []
        self.half_done, self.go_on = threading.Event(), threading.Event()

    def __call__(self, id, channel, payload, pid):
        self.calls.append(payload)
        if len(self.calls) == COUNT // 2:
            self.half_done.set()
            assert self.go_on.wait(60)


def check_moving(server, move, make_notifier, caplog, dsn=None):
    """Move the database while a batch is half delivered: nothing is lost, nor taken for a copy.

    Args:
        server: Where it is at first.
        move: Moves it, and returns where it is afterwards.
        make_notifier: Makes a notifier.
        caplog: What is logged.
        dsn: Where the notifier finds it at first. Default: the server.
    """
    log, slow, at = DurableLog(server.dsn), Slow(), [dsn or server.dsn]
    notifier = make_notifier(lambda: at[0])
    notifier.subscribe("slow", "paid", slow, durable=True)
    notifier.subscribe("later", "sent", slow, durable=True)
    notifier.mute_channels("sent")
    log.publish_together("paid", *range(COUNT))
    log.publish("sent", "undelivered")
    assert slow.half_done.wait(60)
    log.connection.close()
    at[0] = move()
    moved = Database(at[0])
    eventually(lambda: not moved.execute("SELECT pg_is_in_recovery()")[0][0])
    moved.execute("SELECT pgnotifier.publish('paid', %s)", str(COUNT))
    slow.go_on.set()
    notifier.unmute_channels()
    eventually(lambda: {*range(COUNT + 1), "undelivered"} <= set(slow.calls))
    moved.execute("SELECT pgnotifier.publish('paid', %s)", str(COUNT + 1))
    eventually(lambda: COUNT + 1 in slow.calls)
    assert all(slow.calls.count(one) <= 2 for one in range(COUNT))  # a batch comes again
    assert slow.calls.count(COUNT) == slow.calls.count("undelivered") == 1
    assert "copied" not in caplog.text
    notifier.stop()
    moved.connection.close()


def test_pg_upgrade(make_notifier, caplog, monkeypatch):
    """pg_upgrade to the version under test keeps each position."""
    home = find_older()
    with monkeypatch.context() as patch:
        patch.setenv(POSTGRES_HOME, str(home))
        old = PostgresServer()
        old.start()
    upgraded = Upgraded(old, home)

    def upgrade():
        old.stop()
        upgraded.start()
        return upgraded.dsn

    try:
        check_moving(old, upgrade, make_notifier, caplog)
    finally:
        old.close()
        upgraded.close()


@pytest.mark.parametrize("knows_both", [False, True])
def test_the_promotion_of_a_standby(pgnotifier_private_postgres, make_notifier, caplog, knows_both):
    """After a failover, the standby's positions are those of the primary.

    The notifier is given the standby's address afterwards, or both of them from the beginning.
    """
    if not (find_postgres() / "bin" / "pg_basebackup").exists():
        pytest.skip("needs pg_basebackup, which this PostgreSQL lacks")
    primary = pgnotifier_private_postgres
    with Replica(primary) as replica:

        def promote():
            flushed = Database(primary.dsn)
            wanted = flushed.execute("SELECT pg_current_wal_flush_lsn()")[0][0]
            standby = Database(replica.dsn)
            replayed = "SELECT pg_last_wal_replay_lsn() >= %s"
            eventually(lambda: standby.execute(replayed, wanted)[0][0])
            for one in (flushed, standby):
                one.connection.close()
            primary.kill()
            replica.promote()
            return both or replica.dsn

        hosts = [conninfo_to_dict(server.dsn) for server in (primary, replica)]
        together = make_conninfo(
            primary.dsn,
            host=",".join(one["host"] for one in hosts),
            port=",".join(one["port"] for one in hosts),
            target_session_attrs="read-write",
        )
        both = together if knows_both else None
        check_moving(primary, promote, make_notifier, caplog, both)


def test_transaction_ids_that_wrap_around(pgnotifier_private_postgres, make_notifier):
    """Positions stay valid when ids of transactions begin again, and when all rows are frozen."""
    server, programs = pgnotifier_private_postgres, find_postgres() / "bin"
    if not (programs / "pg_resetwal").exists():
        pytest.skip("this PostgreSQL has no pg_resetwal")
    log, got = DurableLog(server.dsn), []
    notifier = make_notifier(server.dsn)
    notifier.subscribe("invoice", "paid", lambda *a: got.append(a[2]), durable=True)
    log.publish("paid", 1)
    eventually(lambda: got == [1])
    notifier.mute_channels("paid")
    log.publish("paid", 2)
    log.connection.close()
    for xid in (2_000_000_000, 4_000_000_000, 2**32 - 200):  # each less than 2**31 ahead
        _freeze(server)
        server.stop()
        _skip_to(server, xid)
        server.start()
    notifier.unmute_channels()
    eventually(lambda: got == [1, 2])
    log = DurableLog(server.dsn)
    log.publish("paid", *range(3, 400))
    assert int(log.execute("SELECT pg_current_xact_id()::text")[0][0]) > 2**32
    eventually(lambda: got == [*range(1, 400)])
    _freeze(server)
    log.publish("paid", 400)
    eventually(lambda: got == [*range(1, 401)])
    assert log.failed("invoice") == []
    notifier.stop()
    log.connection.close()


def _freeze(server):
    """Freeze all rows of all databases."""
    admin = Database(server.dsn)
    admin.execute("ALTER DATABASE template0 ALLOW_CONNECTIONS true")
    for (name,) in admin.execute("SELECT datname FROM pg_database"):
        database = Database(server.dsn_for(name))
        database.execute("VACUUM FREEZE")
        database.connection.close()
    admin.connection.close()


def _skip_to(server, xid):
    """Have the next transaction get this id, though those before it never were."""
    process = server._owned()
    data = process.directory / "data"
    segment = data / "pg_xact" / f"{xid // (4 * 32 * 8192):04X}"
    if not segment.exists():  # of four transactions a byte, 32 pages
        process.run(["dd", "if=/dev/zero", f"of={segment}", "bs=8192", "count=32"])
    program = Path(server._binary).with_name("pg_resetwal")
    if not program.exists():
        program = find_postgres() / "bin" / "pg_resetwal"
    process.run([str(program), "-f", "-x", str(xid), "-D", str(data)])
