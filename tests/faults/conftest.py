"""What tests that break things share: sessions to kill, notifiers that are stopped again."""

import psycopg
import pytest

from pgnotifier.connection import Backoff

from .load import Ledger
from .scripts import Script

LISTENING = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgnotifier'"


class Sessions:
    """The sessions of notifiers in one database, seen from a session beside them."""

    def __init__(self, dsn):
        self._dsn = dsn

    def execute(self, query, *args):
        """Run a query on a connection of its own and return its rows."""
        with psycopg.connect(self._dsn, autocommit=True, application_name="admin") as admin:
            cursor = admin.execute(query, args)
            return cursor.fetchall() if cursor.description else []

    def pids(self):
        """Return the pids of the notifiers' sessions in this database."""
        return [pid for (pid,) in self.execute(f"{LISTENING} AND datname = current_database()")]

    def terminate(self):
        """Have the server end them; return how many."""
        return len(
            self.execute(
                f"SELECT pg_terminate_backend(pid) FROM ({LISTENING}"
                " AND datname = current_database()) AS ours"
            )
        )

    def notify(self, channel, payload=""):
        """Send one notification."""
        self.execute("SELECT pg_notify(%s, %s)", channel, str(payload))


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
    """Make the pauses between tries short."""
    monkeypatch.setattr(Backoff, "FIRST", 0.02)
    monkeypatch.setattr(Backoff, "LAST", 0.1)


@pytest.fixture
def run_script(tmp_path):
    """Yield a function that runs a script, which is ended with the test at the latest."""
    scripts = []

    def run(source, *args, **settings):
        directory = tmp_path / str(len(scripts))
        directory.mkdir()
        scripts.append(Script(directory, source, *args, **settings))
        return scripts[-1]

    yield run
    for script in scripts:
        script.close()
