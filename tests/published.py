"""A session that publishes into the durable log of a test's database, and looks into it."""

import psycopg
from database import Database

from pgnotifier.durable import install


class DurableLog(Database):
    """The durable log of a database, which it installs."""

    def __init__(self, dsn):
        super().__init__(dsn)
        install(self.connection)

    def publish(self, channel, *payloads, key=None):
        """Publish, each payload in its own transaction; return the ids of the entries."""
        query = "SELECT pgnotifier.publish(%s, %s, %s)"
        return [self.execute(query, channel, str(one), key)[0][0] for one in payloads]

    def publish_together(self, channel, *payloads):
        """Publish all payloads in one transaction, on a connection of its own."""
        with psycopg.connect(self.dsn) as connection:
            for one in payloads:
                connection.execute("SELECT pgnotifier.publish(%s, %s)", (channel, str(one)))

    def failed(self, name):
        """Return id, attempts and dead of what has failed for a subscription, in order."""
        return self.execute(
            "SELECT id, attempts, dead FROM pgnotifier.failed JOIN pgnotifier.subscription"
            " USING (sub) WHERE name = %s ORDER BY n",
            name,
        )

    def have_retried(self):
        """Have everything that has failed retried now."""
        self.execute("UPDATE pgnotifier.failed SET retry_at = now() WHERE NOT dead")
        self.execute("NOTIFY pgnotifier_wake")

    def readers(self):
        """Return the pids of the sessions that read the log in this database."""
        found = self.execute(
            "SELECT DISTINCT pid FROM pg_stat_activity JOIN pg_locks USING (pid)"
            " WHERE locktype = 'advisory' AND classid = 1885957742"
            " AND datname = current_database()"
        )
        return [pid for (pid,) in found]
