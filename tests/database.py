"""A session with which tests send notifications and inspect the notifiers' sessions."""

import secrets
from contextlib import contextmanager

import psycopg
from psycopg import sql

LISTENING = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE application_name = 'pgnotifier' AND datname = current_database()"
)


class Database:
    """A session in the database of the notifiers under test."""

    def __init__(self, dsn):
        self.dsn = dsn
        self.connection = psycopg.connect(dsn, autocommit=True, application_name="test")
        self.pid = self.connection.info.backend_pid

    def execute(self, query, *args):
        """Run a query and return its rows."""
        cursor = self.connection.execute(query, args or None)
        return cursor.fetchall() if cursor.description else []

    def notify(self, channel, payload=""):
        """Send one notification, committed on return."""
        self.execute("SELECT pg_notify(%s, %s)", channel, str(payload))

    def listening(self):
        """Return the pids of the sessions of notifiers in this database."""
        return [pid for (pid,) in self.execute(LISTENING)]

    def terminate(self):
        """Have the server end these sessions, and return how many there were."""
        return len(self.execute(f"SELECT pg_terminate_backend(pid) FROM ({LISTENING}) AS ours"))


@contextmanager
def role(dsn):
    """Yield the name of a new role, which may log in."""
    name = f"role_{secrets.token_hex(4)}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        try:
            yield name
        finally:
            admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
