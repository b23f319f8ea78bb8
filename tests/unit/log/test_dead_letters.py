"""Entries that have failed: retried when they are due, dead, retried again, dropped."""

import pytest

from pgnotifier._log import dead_letters, positions
from pgnotifier._log.dead_letters import Failure


@pytest.fixture
def failed(log):
    """Return a subscription with an entry that has failed once and is due."""
    position = log.subscribe()
    log.publish("orders", "a")
    with log.connection.transaction():
        reading = position.read(log.connection, 10)
        failure = Failure("ValueError: \0 bad", "Traceback: \0 here", retry_in=0.0)
        dead_letters.record_failure(
            log.connection, position.sub, "orders", reading.entries[0], failure
        )
        position.save(log.connection, reading)
    return position.sub


def letters(log, **wanted):
    """Return failed entries."""
    return dead_letters.find_letters(log.connection, **wanted)


def test_a_failed_entry_is_due_later(log, failed):
    """A failed entry is due after some seconds, and isn't dead."""
    assert letters(log) == []
    (due,) = dead_letters.find_due(log.connection, failed, 10)
    assert (due.id, due.payload, due.key, due.attempts) == (1, b"a", None, 1)
    dead_letters.record_another(log.connection, due.n, Failure("again", retry_in=60.0))
    assert dead_letters.find_due(log.connection, failed, 10) == []
    (letter,) = letters(log, everything=True)
    assert (letter.attempts, letter.error, letter.traceback, letter.dead) == (
        2, "again", None, False,
    )  # fmt: skip


def test_null_characters(log, failed):
    """An error with a null character, which PostgreSQL can't store, is kept without it."""
    (letter,) = letters(log, everything=True)
    assert (letter.error, letter.traceback) == ("ValueError:  bad", "Traceback:  here")


def test_dead_letters(log, failed):
    """A dead letter isn't due any more; it is found by number, subscription and channel."""
    (due,) = dead_letters.find_due(log.connection, failed, 10)
    dead_letters.record_another(log.connection, due.n, Failure("no", is_dead=True, retry_in=0.0))
    assert dead_letters.find_due(log.connection, failed, 10) == []
    assert [one.n for one in letters(log)] == [due.n]
    assert [one.n for one in letters(log, n=due.n, name="sub", channel="orders")] == [due.n]
    assert letters(log, n=due.n + 1) == letters(log, name="x") == letters(log, channel="x") == []
    assert letters(log, limit=0) == []


def test_retrying_dead_letters(log, failed):
    """A dead letter that is retried is due at once, with all its attempts."""
    (due,) = dead_letters.find_due(log.connection, failed, 10)
    dead_letters.record_another(log.connection, due.n, Failure("no", is_dead=True))
    assert dead_letters.retry_letters(log.connection, [due.n, due.n + 1]) == 1
    (again,) = dead_letters.find_due(log.connection, failed, 10)
    assert (again.n, again.attempts) == (due.n, 0)


def test_dropping(log, failed):
    """An entry that is dropped is gone."""
    (due,) = dead_letters.find_due(log.connection, failed, 10)
    assert dead_letters.drop_letters(log.connection, [due.n]) == 1
    assert dead_letters.drop_letters(log.connection, [due.n]) == 0
    assert letters(log, everything=True) == []


def test_two_sessions_get_different_ones(log, failed):
    """What a session retries is locked: another session doesn't get it at the same time."""
    with log.connect() as other, log.connection.transaction():
        assert len(dead_letters.find_due(log.connection, failed, 10)) == 1
        assert dead_letters.find_due(other, failed, 10) == []


def test_forgetting_deletes_them(log, failed):
    """Failed entries are deleted with their subscription."""
    positions.forget(log.connection, "sub", "orders")
    assert letters(log, everything=True) == []
