"""Threads that make transactions, of which it is known what has to become of them."""

import random
import threading

import psycopg


class Customers:
    """Makes numbered transactions in threads. About half of them are rolled back.

    Attributes:
        committed: The numbers of those that have committed.
        rolled_back: The numbers of the others.
    """

    def __init__(self, dsn, count, put, *, threads=2, first_commits=False):
        """Prepare the threads.

        Args:
            dsn: The database.
            count: How many transactions to make.
            put: A function that puts something into an outbox, given a connection and a number.
            threads: How many threads make them. Each takes every second, third and so on.
            first_commits: Whether the first transaction of each thread always commits.
        """
        self.committed, self.rolled_back = set(), set()
        self._dsn, self._put, self._first_commits = dsn, put, first_commits
        numbers = [range(one, count, threads) for one in range(threads)]
        self._threads = [threading.Thread(target=self._run, args=(some,)) for some in numbers]

    def __enter__(self):
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_):
        for one in self._threads:
            one.join()

    def _run(self, numbers):
        chance = random.Random(numbers.start)
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            for number in numbers:
                fails = chance.random() < 0.5
                if self._first_commits and number == numbers.start:
                    fails = False
                with connection.transaction(force_rollback=fails):
                    self._put(connection, number)
                (self.rolled_back if fails else self.committed).add(number)
