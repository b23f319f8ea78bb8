"""Fixtures of the tests that break things: sessions to end, and scripts to run as processes."""

import psycopg
import pytest
from database import Database

from pgnotifier._runtime.backoff import Backoff

from .load import Ledger
from .scripts import Script


class Sessions(Database):
    """The sessions of notifiers in one database, of a server that tests may stop and start."""

    def __init__(self, dsn):
        self.dsn = dsn

    def execute(self, query, *args):
        """Run a query on a new connection and return its rows."""
        with psycopg.connect(self.dsn, autocommit=True, application_name="admin") as admin:
            cursor = admin.execute(query, args)
            return cursor.fetchall() if cursor.description else []

    pids = Database.listening


@pytest.fixture
def sessions(pgnotifier_dsn):
    """Yield the sessions in this test's database on the shared server."""
    return Sessions(pgnotifier_dsn)


@pytest.fixture
def ledger():
    """Yield an empty ledger."""
    return Ledger()


@pytest.fixture
def quick(monkeypatch):
    """Shorten the pauses between attempts."""
    monkeypatch.setattr(Backoff, "FIRST", 0.02)
    monkeypatch.setattr(Backoff, "LAST", 0.1)


@pytest.fixture
def run_script(tmp_path):
    """Yield a function that runs a script; whatever still runs after the test is killed."""
    scripts = []

    def run(source, *args, **settings):
        directory = tmp_path / str(len(scripts))
        directory.mkdir()
        scripts.append(Script(directory, source, *args, **settings))
        return scripts[-1]

    yield run
    for script in scripts:
        script.close()
