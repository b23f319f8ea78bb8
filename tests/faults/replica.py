"""A standby of another server, by streaming replication."""

import psycopg
import pytest

from pgnotifier.testing import PostgresServer
from pgnotifier.testing.wheels import find_postgres


class Replica(PostgresServer):
    """A standby of another embedded server; or a copy that goes on from its present state."""

    def __init__(self, primary, *, follows=True):
        super().__init__()
        self._primary = primary
        self._options = ["-R"] if follows else []

    def promote(self):
        """Promote it to a primary."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def _make_data(self, process, home, installed):
        program, data = str(home / "bin" / "pg_basebackup"), str(process.directory / "data")
        process.run(
            [
                program,
                *self._options,
                "-X",
                "stream",
                "-c",
                "fast",
                "-D",
                data,
                "-d",
                self._primary.dsn,
            ]
        )


def replica_of(primary, *, follows=True):
    """Return a standby that isn't started yet; skip the test if there is no pg_basebackup."""
    if not (find_postgres() / "bin" / "pg_basebackup").exists():
        pytest.skip("needs pg_basebackup, which this PostgreSQL lacks")
    return Replica(primary, follows=follows)
