"""Load for the durable log: writers that do all that writers may do, and what must come of it."""

import contextlib
import random
import threading
import time
from collections import ChainMap

import psycopg
from psycopg import IsolationLevel

KEYS = 20
OUTCOMES = ["commit"] * 6 + ["rollback", "savepoint", "repeatable", "repeatable", "prepare"]

SETUP = """
CREATE TABLE counter (key int PRIMARY KEY, n int NOT NULL);
INSERT INTO counter SELECT key, 0 FROM generate_series(1, 20) AS key;
CREATE TABLE journal (id bigint PRIMARY KEY, key int NOT NULL, n int NOT NULL);
-- more ticks, as there are fewer entries than a real log has
ALTER TABLE pgnotifier.log
    ALTER COLUMN snap SET DEFAULT CASE WHEN random() < 0.02 THEN pgnotifier.snapshot() END;
"""


class Writer(threading.Thread):
    """Publishes in transactions of random lengths and outcomes.

    Attributes:
        began: When each publication was begun, by id.
        ended: When its transaction was known to be committed, by id.
    """

    def __init__(self, dsn, number, stopping):
        super().__init__()
        self._dsn = dsn
        self._number = number
        self._stopping = stopping
        self._random = random.Random(number)
        self._count = 0
        self.began = {}
        self.ended = {}

    def run(self):
        """Publish until the event `stopping` is set, on a new connection when one is lost."""
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._dsn) as connection:
                    self._finish_prepared(connection)
                    while not self._stopping.is_set():
                        self._publish(connection)
            except psycopg.OperationalError:
                time.sleep(0.02)  # the server is restarted

    def _finish_prepared(self, connection):
        """Commit what was left prepared when a connection was lost; it holds locks of keys."""
        query = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE %s"
        found = connection.execute(query, (f"writer {self._number} %",)).fetchall()
        connection.commit()
        connection.autocommit = True
        for (name,) in found:
            connection.execute(f"COMMIT PREPARED '{name}'")
        connection.autocommit = False

    def _publish(self, connection):
        outcome = self._random.choice(OUTCOMES)
        connection.isolation_level = (
            IsolationLevel.REPEATABLE_READ
            if outcome == "repeatable"
            else IsolationLevel.READ_COMMITTED
        )
        try:
            ids = self._transact(connection, outcome)
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
            connection.rollback()
            return
        ended = time.monotonic()
        self.ended |= dict.fromkeys(ids, ended)

    def _transact(self, connection, outcome):
        """Make one transaction; return the ids that it has published, if it was committed."""
        made = []
        # Locked in one order: no deadlocks.
        keys = sorted(self._random.sample(range(1, KEYS + 1), self._random.choice([1, 1, 1, 2, 4])))
        for key in keys:
            made.append(self._one(connection, key))
            if self._random.random() < 0.1:
                time.sleep(self._random.random() * 0.02)
        if outcome == "savepoint":
            with contextlib.suppress(ZeroDivisionError), connection.transaction():
                self._one(connection, keys[-1])
                raise ZeroDivisionError
            made.append(self._one(connection, keys[-1]))
        if outcome == "rollback":
            connection.rollback()
            return []
        if outcome == "prepare":
            self._count += 1
            name = f"writer {self._number} {self._count}"
            connection.execute(f"PREPARE TRANSACTION '{name}'")
            connection.commit()
            time.sleep(self._random.random() * 0.01)
            connection.autocommit = True
            if self._random.random() < 0.5:
                connection.execute(f"ROLLBACK PREPARED '{name}'")
                made = []
            else:
                connection.execute(f"COMMIT PREPARED '{name}'")
            connection.autocommit = False
        else:
            connection.commit()
        return made

    def _one(self, connection, key):
        """Publish one entry, numbered by its key, with the key's lock; return its id."""
        (n,) = connection.execute(
            "UPDATE counter SET n = n + 1 WHERE key = %s RETURNING n", (key,)
        ).fetchone()
        began = time.monotonic()
        (made,) = connection.execute(
            "SELECT pgnotifier.publish('orders', %s, %s)", (f"{key} {n}", str(key))
        ).fetchone()
        connection.execute("INSERT INTO journal VALUES (%s, %s, %s)", (made, key, n))
        self.began[made] = began
        return made


class Verdict:
    """What a subscription got, compared with what was committed.

    Attributes:
        lost: Ids that were committed, and not delivered.
        invented: Ids that were delivered, and not committed.
        late: Ids that were delivered after one that was published when they were committed.
        disordered: Entries that were delivered after a later one of their key.
        repeated: How many deliveries were repetitions.
    """

    def __init__(self, delivered, journal, writers):
        """Compare.

        Args:
            delivered: (id, key, n) in the order of delivery.
            journal: The same of what was committed.
            writers: The writers.
        """
        first = list(dict.fromkeys(delivered))
        self.lost = {one[0] for one in set(journal) - set(first)}
        self.invented = {one[0] for one in set(first) - set(journal)}
        self.repeated = len(delivered) - len(first)
        began = dict(ChainMap(*(one.began for one in writers)))
        ended = dict(ChainMap(*(one.ended for one in writers)))
        self.late, self.disordered = set(), []
        newest, last = 0.0, {}
        for entry, key, n in first:
            if ended.get(entry, float("inf")) < newest:
                self.late.add(entry)
            newest = max(newest, began.get(entry, 0.0))
            if n < last.get(key, 0):
                self.disordered.append((entry, key, n))
            last[key] = n

    @property
    def is_good(self):
        """Whether everything holds that is promised."""
        return not (self.lost or self.invented or self.late or self.disordered)

    def __repr__(self):
        return (
            f"{len(self.lost)} lost, {len(self.invented)} invented, {len(self.late)} late, "
            f"{len(self.disordered)} out of order, {self.repeated} repeated"
        )
