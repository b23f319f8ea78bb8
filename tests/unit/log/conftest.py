"""Fixtures: a database with the durable log."""

import psycopg
import pytest
from log_position import Position

from pgnotifier._connection.parameters import Parameters
from pgnotifier._log import installing, positions


class Log:
    """The durable log of one database, with a connection like a reading thread's."""

    def __init__(self, dsn):
        self.dsn = dsn
        self.connection = Parameters(dsn).connect()
        installing.install(self.connection)

    def connect(self, **settings):
        """Return a new connection, in autocommit mode."""
        return psycopg.connect(self.dsn, **{"autocommit": True, **settings})

    def execute(self, query, *args):
        """Run a query and return its rows."""
        cursor = self.connection.execute(query, args or None)
        return cursor.fetchall() if cursor.description else []

    def publish(self, channel, *payloads, connection=None):
        """Publish in one transaction and return the ids."""
        with (connection or self.connection).transaction():
            return [
                (connection or self.connection)
                .execute("SELECT pgnotifier.publish(%s, %s)", (channel, str(one)))
                .fetchone()[0]
                for one in payloads
            ]

    def subscribe(self, name="sub", channel="orders", start="now"):
        """Return the position of a subscription, which is made if it is new."""
        return Position(positions.subscribe(self.connection, name, channel, start))

    def read(self, position, limit=1000, settled=None):
        """Read a batch and save the position; return the payloads."""
        with self.connection.transaction():
            reading = position.read(self.connection, limit)
            position.save(self.connection, reading, settled)
        return [one.payload for one in reading.entries]

    def read_all(self, position, limit=1000):
        """Read until nothing is left; return the payloads."""
        payloads, is_last = [], False
        while not is_last:
            with self.connection.transaction():
                reading = position.read(self.connection, limit)
                position.save(self.connection, reading)
            payloads += [one.payload for one in reading.entries]
            is_last = reading.is_last
        return payloads

    def reclaim(self, retention="0", slot_bytes=1):
        """Give space back; return how many slots were truncated, and how many were in use."""
        query = "SELECT freed, blocked FROM pgnotifier.reclaim(%s::interval, %s)"
        return self.execute(query, retention, slot_bytes)[0]

    def count(self, table="log"):
        """Return how many rows a table has."""
        return self.execute(f"SELECT count(*) FROM pgnotifier.{table}")[0][0]


@pytest.fixture
def log(pgnotifier_dsn):
    """Yield the durable log, installed in the test's database."""
    log = Log(pgnotifier_dsn)
    yield log
    log.connection.close()
