"""Load for the durable log: writers that do all that writers may do, and what must come of it."""

import contextlib
import itertools
import json
import random
import threading
import time
from collections import ChainMap, Counter

import psycopg
from psycopg import IsolationLevel

KEYS = 40
MANY = 40
OUTCOMES = ["commit"] * 6 + ["many", "rollback", "savepoint", "repeatable", "repeatable", "prepare"]

SETUP = f"""
CREATE TABLE counter (key int PRIMARY KEY, n int NOT NULL);
INSERT INTO counter SELECT key, 0 FROM generate_series(1, {KEYS}) AS key;
CREATE TABLE journal (number bigint PRIMARY KEY, key int NOT NULL, n int NOT NULL);
-- more ticks, as there are fewer entries than a real log has
ALTER TABLE pgnotifier.log
    ALTER COLUMN snap SET DEFAULT CASE WHEN random() < 0.02 THEN pgnotifier.snapshot() END;
"""
PUBLISH = "SELECT pgnotifier.publish('orders', %s, %s)"
PUBLISH_MANY = """
SELECT pgnotifier.publish('orders', format('[%%s, %%s, %%s]', number, key, n), key::text)
FROM journal WHERE number BETWEEN %s AND %s ORDER BY number
"""


class Writer(threading.Thread):
    """Publishes in transactions of random lengths and outcomes.

    A payload has the number of the publication, its key, and its number within its key.

    Attributes:
        began: When each publication was begun, by its number.
        ended: When its transaction was known to be committed, by its number.
    """

    def __init__(self, dsn, number, seed, stopping, pausing):
        super().__init__()
        self._dsn = dsn
        self._number = number
        self._stopping = stopping
        self._pausing = pausing
        self._random = random.Random(f"{seed} {number}")
        self._numbers = itertools.count(number * 1_000_000 + 1)
        self.began = {}
        self.ended = {}

    def run(self):
        """Publish until the event `stopping` is set, but not while `pausing` is.

        A connection that is lost is replaced.
        """
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._dsn) as connection:
                    self._finish_prepared(connection)
                    # So often that replicas get behind, and read ahead.
                    while not self._stopping.wait(self._random.uniform(0.0, 0.04)):
                        if not self._pausing.is_set():
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
            made = self._transact(connection, outcome)
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
            connection.rollback()
            return
        ended = time.monotonic()
        self.ended |= dict.fromkeys(made, ended)

    def _transact(self, connection, outcome):
        """Make one transaction; return what it has published, by number, if it was committed."""
        made = []
        if outcome == "prepare":  # which isn't possible after a wake-up
            connection.execute("SET LOCAL pgnotifier.wake = off")
        # Locked in one order: no deadlocks.
        keys = sorted(self._random.sample(range(1, KEYS + 1), self._random.choice([1, 1, 1, 2, 4])))
        for key in keys:
            made.append(self._one(connection, key))
            if self._random.random() < 0.1:
                time.sleep(self._random.random() * 0.02)
        if outcome == "many":
            made += self._many(connection, keys[-1])
        if outcome == "savepoint":
            with contextlib.suppress(ZeroDivisionError), connection.transaction():
                self._one(connection, keys[-1])
                raise ZeroDivisionError
            made.append(self._one(connection, keys[-1]))
        if outcome == "rollback":
            connection.rollback()
            return []
        if outcome == "prepare":
            name = f"writer {self._number} {next(self._numbers)}"
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
        """Publish one entry, numbered by its key, with the key's lock; return its number."""
        (n,) = connection.execute(
            "UPDATE counter SET n = n + 1 WHERE key = %s RETURNING n", (key,)
        ).fetchone()
        number = next(self._numbers)
        self.began[number] = time.monotonic()
        publish(connection, number, key, n)
        return number

    def _many(self, connection, key):
        """Publish many entries of one key together; return their numbers."""
        (n,) = connection.execute(
            "UPDATE counter SET n = n + %s WHERE key = %s RETURNING n", (MANY, key)
        ).fetchone()
        made = list(itertools.islice(self._numbers, MANY))
        self.began |= dict.fromkeys(made, time.monotonic())
        connection.execute(
            "INSERT INTO journal SELECT %s + i, %s, %s + i FROM generate_series(1, %s) AS i",
            (made[0] - 1, key, n - MANY, MANY),
        )
        connection.execute(PUBLISH_MANY, (made[0], made[-1]))
        return made


def publish(connection, number, key, n):
    """Publish one entry, and note it in the journal, in the transaction that is open."""
    connection.execute(PUBLISH, (json.dumps([number, key, n]), str(key)))
    connection.execute("INSERT INTO journal VALUES (%s, %s, %s)", (number, key, n))


class Verdict:
    """What a subscription got, compared with what was committed.

    Attributes:
        lost: What was committed, and not delivered, by number.
        invented: What was delivered, and not committed, by number.
        late: What was delivered after something that was published when it was committed already.
        disordered: Entries that were delivered after a later one of their key.
        repeats: How many deliveries repeated one that this replica had made, by replica.
    """

    def __init__(self, delivered, journal, writers):
        """Compare.

        Args:
            delivered: (number, key, n, replica) in the order of delivery.
            journal: (number, key, n) of what was committed.
            writers: The writers.
        """
        first = list(dict.fromkeys(one[:3] for one in delivered))
        self.lost = {one[0] for one in set(journal) - set(first)}
        self.invented = {one[0] for one in set(first) - set(journal)}
        self.repeats, latest = Counter(), {}
        for number, _, _, replica in delivered:
            if number in latest:
                self.repeats[latest[number]] += 1
            latest[number] = replica
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
    def repeated(self):
        """How many deliveries were repetitions."""
        return self.repeats.total()

    @property
    def is_good(self):
        """Whether everything holds that is promised."""
        return not (self.lost or self.invented or self.late or self.disordered)

    def __repr__(self):
        return (
            f"{len(self.lost)} lost, {len(self.invented)} invented, {len(self.late)} late, "
            f"{len(self.disordered)} out of order, {self.repeated} repeated"
        )
