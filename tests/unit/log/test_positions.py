"""Positions: what a subscription reads, in which order, where it begins, and when it is saved."""

import threading
from datetime import UTC, datetime, timedelta

import log_position
import psycopg
import pytest
from log_position import ForeignPositionError, Position, SubscriptionGoneError
from waiting import eventually

from pgnotifier._log import positions
from pgnotifier.errors import ArgumentTypeError


def publish_many(log, count, channel="orders"):
    """Publish that many entries in as many transactions."""
    log.execute(
        f"DO $$ BEGIN FOR i IN 1..{count} LOOP"
        f" PERFORM pgnotifier.publish('{channel}', i::text); COMMIT; END LOOP; END $$"
    )


def test_entries_come_in_order_and_once(log):
    """Each entry of the channel is read once, in order, by batches."""
    position = log.subscribe()
    log.publish("orders", *range(25))
    log.publish("other", "x")
    assert log.read(position, 10) == [str(n) for n in range(10)]
    assert log.read_all(position, 10) == [str(n) for n in range(10, 25)]
    assert log.read(position) == []


def test_what_an_entry_holds(log):
    """An entry has an id, a time, a key and a payload, of any size that is allowed."""
    position = log.subscribe()
    before = datetime.now(UTC)
    large = "€" * 1_000_000
    (made,) = log.execute("SELECT pgnotifier.publish('orders', %s, 'a key')", large)[0]
    with log.connection.transaction():
        (entry,) = position.read(log.connection, 10).entries
    assert (entry.id, entry.key, entry.payload) == (made, "a key", large)
    assert abs(entry.published_at - before) < timedelta(minutes=1)


def test_jsonb(log):
    """A jsonb value is published as its text."""
    position = log.subscribe()
    log.execute("SELECT pgnotifier.publish('orders', '{\"id\": 7}'::jsonb)")
    log.execute("SELECT pgnotifier.publish('orders', '{\"id\":  8}')")
    assert log.read(position) == ['{"id": 7}', '{"id":  8}']


@pytest.mark.parametrize(
    ("arguments", "constraint"),
    [
        ("'', 'x'", "channel_size"),
        ("repeat('€', 22), 'x'", "channel_size"),
        ("'orders', 'x', repeat('k', 1025)", "key_size"),
        pytest.param("'orders', repeat('x', 67108865)", "payload_size", marks=pytest.mark.slow),
    ],
)
def test_sizes_are_limited(log, arguments, constraint):
    """A channel, key or payload that is too long is refused."""
    with pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        log.execute(f"SELECT pgnotifier.publish({arguments})")


def test_what_is_rolled_back_is_not_read(log):
    """Entries of transactions and savepoints that are rolled back are never read."""
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publisher.execute("SELECT pgnotifier.publish('orders', 'kept')")
        publisher.execute("SAVEPOINT one")
        publisher.execute("SELECT pgnotifier.publish('orders', 'lost')")
        publisher.execute("ROLLBACK TO one")
        publisher.commit()
        publisher.execute("SELECT pgnotifier.publish('orders', 'lost, too')")
        publisher.rollback()
    assert log.read_all(position) == ["kept"]


def test_what_commits_late_is_read(log):
    """An entry with a lower id that is committed after a higher one was read isn't skipped."""
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publisher.execute("SELECT pgnotifier.publish('orders', 'first')")
        log.publish("orders", "second")
        assert log.read_all(position) == ["second"]
        publisher.commit()
    assert log.read_all(position) == ["first"]


def test_a_very_late_commit_among_many(log):
    """An entry is read though its transaction ends thousands of transactions after it began."""
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publisher.execute("SELECT pgnotifier.publish('orders', 'late')")
        publish_many(log, 3000)
        assert len(log.read_all(position)) == 3000
        publisher.commit()
    assert log.read_all(position) == ["late"]


def test_a_batch_that_ends_with_its_window(log):
    """If a batch ends exactly where its window does, reading goes on behind it."""
    position = log.subscribe()
    log.publish("orders", *range(20))
    assert len(log.read(position, 10)) == 10
    assert len(log.read(position, 10)) == 10
    assert log.read(position, 10) == []
    log.publish("orders", "next")
    assert log.read_all(position, 10) == ["next"]


def test_a_backlog_is_cut_into_windows(log):
    """A long backlog is read in order by channel, though ticks cut it into windows."""
    position = log.subscribe()
    publish_many(log, 8000)
    assert log.execute("SELECT count(*) > 0 FROM pgnotifier.log WHERE snap IS NOT NULL") == [
        (True,)
    ]
    assert log.read_all(position, 700) == [str(n) for n in range(1, 8001)]


@pytest.mark.slow
def test_one_transaction_with_many_entries(log):
    """A transaction with more entries than a window usually has is read in order.

    What others published meanwhile may come before it.
    """
    position = log.subscribe()
    with log.connect(autocommit=False) as publisher:
        publish_many(log, 100)
        publisher.execute(
            "INSERT INTO pgnotifier.log (channel, payload)"
            " SELECT 'orders', 'large ' || n FROM generate_series(1, 30000) AS n"
        )
        publish_many(log, 100)
        publisher.commit()
    payloads = log.read_all(position, 5000)
    large = [one for one in payloads if one.startswith("large")]
    others = [one for one in payloads if not one.startswith("large")]
    assert large == [f"large {n}" for n in range(1, 30001)]
    assert others == 2 * [str(n) for n in range(1, 101)]


def test_a_batch_that_is_partly_settled(log):
    """Of a batch, the position moves behind the entries that were settled."""
    position = log.subscribe()
    log.publish("orders", *range(10))
    log.read(position, settled=4)
    assert log.read(position, settled=0) == [str(n) for n in range(4, 10)]
    assert log.read_all(position) == [str(n) for n in range(4, 10)]


def test_a_rollback_leaves_the_position(log):
    """If the transaction is rolled back after `save`, the batch is read again."""
    position = log.subscribe()
    log.publish("orders", "a", "b")
    with log.connection.transaction(force_rollback=True):
        position.save(log.connection, position.read(log.connection, 10))
    assert log.read_all(position) == ["a", "b"]


def test_positions_of_replicas(log):
    """Another replica reads on from where the first one was, whatever it knew before."""
    first, second = log.subscribe(), log.subscribe()
    log.publish("orders", "a")
    assert log.read_all(second) == ["a"]
    log.publish("orders", "b")
    assert log.read_all(first) == ["b"]
    log.publish("orders", "c")
    assert log.read_all(second) == ["c"]


def test_one_session_at_a_time(log):
    """While a session reads a subscription, another one gets nothing; other subscriptions go on."""
    one, two = log.subscribe("one"), log.subscribe("two")
    log.publish("orders", "a")
    with log.connect() as other, log.connection.transaction(), other.transaction():
        assert one.read(log.connection, 10).entries
        assert Position(one.sub).read(other, 10) is None
        assert two.read(other, 10).entries


def test_isolation_is_checked(log):
    """Reading needs READ COMMITTED, as an older snapshot would miss entries."""
    position = log.subscribe()
    with log.connect() as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with (
            pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED"),
            other.transaction(),
        ):
            position.read(other, 10)


@pytest.mark.parametrize(
    ("start", "expected"), [("now", ["d"]), ("oldest", ["a", "b", "c", "d"]), (2, ["b", "c", "d"])]
)
def test_where_a_subscription_begins(log, start, expected):
    """A subscription begins now, at the oldest entry, or at an id."""
    log.publish("orders", "a", "b", "c")
    position = log.subscribe(start=start)
    log.publish("orders", "d")
    assert log.read_all(position) == expected


def test_beginning_at_a_time(log):
    """A subscription that begins at a time gets what was published then or later."""
    publish_many(log, 5000)
    ((moment, n),) = log.execute("SELECT at, payload FROM pgnotifier.log WHERE id = 4000")
    payloads = log.read_all(log.subscribe(start=moment))
    assert payloads == [str(one) for one in range(int(n), 5001)]
    assert log.read_all(log.subscribe("later", start=datetime.now(UTC))) == []
    assert len(log.read_all(log.subscribe("all", start=moment - timedelta(days=1)))) == 5000


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2, 1234, 4999, 5000])
def test_beginning_at_an_id(log, first):
    """A subscription that begins at an id gets this entry and all later ones."""
    publish_many(log, 5000)
    assert log.read_all(log.subscribe(start=first)) == [str(n) for n in range(first, 5001)]


def test_a_tick_shows_lower_ids_only(log):
    """A tick's snapshot is taken before the id is drawn: defaults are computed in this order."""
    order = log.execute(
        "SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = 'pgnotifier.log'::regclass AND attname IN ('snap', 'id', 'at')"
    )
    assert order == [(["snap", "id", "at"],)]


def test_an_existing_subscription_stays(log):
    """Subscribing again changes nothing, whatever `start` is."""
    log.publish("orders", "a")
    position = log.subscribe()
    log.publish("orders", "b")
    assert log.subscribe(start="oldest").sub == position.sub
    assert log.read_all(position) == ["b"]


def test_replicas_subscribe_at_once(log):
    """Of replicas that make the same subscription at once, all get the same one."""
    barrier, numbers = threading.Barrier(8), []

    def subscribe():
        with log.connect() as other:
            barrier.wait(60)
            numbers.append(positions.subscribe(other, "sub", "orders"))

    threads = [threading.Thread(target=subscribe) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(numbers) == 8
    assert len(set(numbers)) == 1
    assert log.count("position") == 1


def test_the_same_id_on_two_channels(log):
    """The same id has a position of its own on each channel."""
    one, two = log.subscribe("same", "orders"), log.subscribe("same", "bills")
    log.publish("orders", "o")
    log.publish("bills", "b")
    assert log.read_all(one) == ["o"]
    assert log.read_all(two) == ["b"]


def test_seeking(log):
    """A subscription can be moved back and forth."""
    position = log.subscribe()
    log.publish("orders", "a", "b", "c")
    assert len(log.read_all(position)) == 3
    assert positions.seek(log.connection, "sub", "orders", 2)
    assert log.read_all(position) == ["b", "c"]
    assert positions.seek(log.connection, "sub", "orders", "oldest")
    assert positions.seek(log.connection, "sub", "orders", "now")
    assert log.read_all(position) == []
    assert not positions.seek(log.connection, "another", "orders", "now")


def test_forgetting(log):
    """A subscription that is forgotten is gone, with its positions."""
    position = log.subscribe()
    log.publish("orders", "a")
    assert positions.forget(log.connection, "sub", "orders")
    assert not positions.forget(log.connection, "sub", "orders")
    with pytest.raises(SubscriptionGoneError), log.connection.transaction():
        position.read(log.connection, 10)
    assert log.count("position") == 0


@pytest.mark.parametrize("start", ["later", True, 1.5, None, datetime(2026, 1, 1)])  # noqa: DTZ001
def test_invalid_starts(log, start):
    """What isn't a place to start at is refused, and so is a time without a time zone."""
    with pytest.raises(ArgumentTypeError):
        log.subscribe(start=start)


def test_made_and_forgotten_while_it_is_made(log):
    """A subscription that another session makes, and a third one forgets, is made after that."""
    log.execute(
        "CREATE FUNCTION public.pause() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::int); RETURN NEW; END $$;"
        " CREATE TRIGGER a BEFORE INSERT ON pgnotifier.subscription"
        " FOR EACH ROW EXECUTE FUNCTION public.pause(1);"
        " CREATE TRIGGER b AFTER INSERT ON pgnotifier.subscription"
        " FOR EACH STATEMENT EXECUTE FUNCTION public.pause(2)"
    )
    made, pid = [], log.connection.info.backend_pid
    waits = (
        "SELECT pid <> %s FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
    )
    with log.connect() as other:
        log.execute("SELECT pg_advisory_lock(1), pg_advisory_lock(2)")
        thread = threading.Thread(
            target=lambda: made.append(positions.subscribe(other, "sub", "orders"))
        )
        thread.start()
        eventually(lambda: log.execute(waits, pid, 1))
        before = log.subscribe()
        log.execute("SELECT pg_advisory_unlock(1)")
        eventually(lambda: log.execute(waits, pid, 2))
        assert positions.forget(log.connection, "sub", "orders")
        log.execute("SELECT pg_advisory_unlock(2)")
        thread.join()
    assert made == [log.subscribe().sub]
    assert made != [before.sub]


def test_a_foreign_position_is_noticed(log):
    """A position that wasn't written by this server isn't read from."""
    position = log.subscribe()
    log.execute("UPDATE pgnotifier.position SET n = DEFAULT")
    with pytest.raises(ForeignPositionError), log.connection.transaction():
        position.read(log.connection, 10)


def test_idle_positions_are_not_saved(log, monkeypatch):
    """Without anything to deliver, a position is saved once a second, if others publish."""
    position = log.subscribe()
    for _ in range(3):
        assert log.read(position) == []
    assert log.count("position") == 1
    log.publish("other", "x")
    assert log.read(position) == []
    assert log.count("position") == 1
    monkeypatch.setattr(log_position, "SAVE_INTERVAL", 0.0)
    assert log.read(position) == []
    assert log.read(position) == []
    assert log.count("position") == 2
    monkeypatch.setattr(log_position, "IDLE_INTERVAL", 0.0)
    assert log.read(position) == []
    assert log.count("position") == 3


def test_a_clock_that_was_set_back(log):
    """A time finds all entries from then on, also those that came before the clock was set back."""
    tick = "INSERT INTO pgnotifier.log (snap, at, channel, payload)"
    tick += " VALUES (pgnotifier.snapshot(), %s, 'orders', %s)"
    for hour, payload in ((10, "a"), (12, "b"), (9, "c"), (9, "d"), (13, "e"), (8, "f"), (8, "g")):
        log.execute(tick, datetime(2026, 1, 1, hour, tzinfo=UTC), payload)
    for hour, expected in ((11, "bcdefg"), (13, "efg"), (14, "")):
        start = datetime(2026, 1, 1, hour, tzinfo=UTC)
        position = log.subscribe(f"from {hour}", start=start)
        found = "".join(log.read_all(position))
        assert found.endswith(expected)
        assert len(found) <= len(expected) + 2


def test_moving_wakes_readers(log):
    """Whoever moves a position, its reader is woken."""
    log.subscribe()
    with psycopg.connect(log.dsn, autocommit=True) as reader:
        reader.execute("LISTEN pgnotifier_wake")
        assert positions.seek(log.connection, "sub", "orders", "oldest")
        (woken,) = reader.notifies(timeout=60, stop_after=1)
    assert (woken.channel, woken.payload) == ("pgnotifier_wake", "")
