"""A connection that gives up waiting for an answer."""

import psycopg
import pytest

from pgnotifier._durable.patience import ImpatientConnection


@pytest.fixture
def connection(pgnotifier_dsn):
    """Yield an impatient connection."""
    connection = ImpatientConnection.connect(pgnotifier_dsn, autocommit=True)
    yield connection
    connection.close()


def test_an_answer_in_time(connection):
    """A query that is answered in time returns what it returns."""
    connection.patience = 60
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_no_answer_in_time(connection):
    """A query that takes longer fails."""
    connection.patience = 0.2
    with pytest.raises(psycopg.OperationalError, match=r"no answer within 0\.2 s"):
        connection.execute("SELECT pg_sleep(60)")


def test_without_a_limit(connection):
    """By default, a query may take as long as it likes."""
    assert connection.patience is None
    assert connection.execute("SELECT pg_sleep(0.2), 1").fetchone()[1] == 1


def test_an_answer_that_keeps_coming(connection):
    """A large answer may take longer, as long as some of it comes all the time."""
    connection.patience = 1.0
    slowly = "SELECT repeat('x', 10000), pg_sleep(0.05) FROM generate_series(1, 30)"
    assert len(connection.execute(slowly).fetchall()) == 30
