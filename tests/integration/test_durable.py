"""Durable subscriptions: what is published is delivered, whoever was down meanwhile."""

import threading
import time
from datetime import UTC, datetime

import psycopg
import pytest

from pgnotifier import InlineDispatcher, Notifier, ThreadDispatcher
from pgnotifier._connection.parameters import Parameters
from pgnotifier._durable import retries, source
from pgnotifier._durable.flight import FLOOD_PAUSE
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.progress import Progress
from pgnotifier.dispatch import Binding, Delivery, Subscription
from pgnotifier.durability import Durability
from pgnotifier.errors import (
    ArgumentTypeError,
    ChannelNameError,
    ConfigurationError,
    LogNotInstalledError,
    LogRefusedError,
    UnknownOptionError,
    UnknownSubscriptionError,
)

ONE_TO_THREE = [1, 2, 3]


class Relay(InlineDispatcher):
    """A dispatcher that may read outboxes."""

    is_relay = True


class Recalcitrant:
    """A callback that fails a number of times, and records its calls."""

    def __init__(self, failures):
        self.failures = failures
        self.calls = []

    def __call__(self, id, channel, payload, pid):
        self.calls.append(payload)
        if payload in self.failures and self.failures[payload] > 0:
            self.failures[payload] -= 1
            raise ValueError(f"not {payload}")


def test_what_is_published_arrives(notifier, log, record):
    """Each entry is delivered in order, as a notification would be; its pid is 0."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", *ONE_TO_THREE, '{"id": 7}')
    assert record.wait_for(4) == [*ONE_TO_THREE, {"id": 7}]
    assert record.calls[0] == ("invoice", "paid", 1, 0)


def test_outboxes_are_for_relays(notifier, log, record):
    """A dispatcher that isn't a relay can't read an outbox; NOTIFY on such a name is as any other.

    Its position can be moved and forgotten, as other positions can.
    """
    channel = "pgnotifier:celery:default"
    with pytest.raises(ChannelNameError, match="is reserved"):
        notifier.subscribe("outbox", channel, record, durable=True)
    assert notifier.get_subscriptions() == {}
    log.execute("SELECT pgnotifier.open_outbox('outbox', %s)", channel)
    notifier.seek("outbox", channel, "oldest")
    relay = Relay()
    notifier.subscribe("outbox", channel, record, durable=True, dispatcher=relay, start="oldest")
    log.execute("SELECT pgnotifier.enqueue('shop.invoice', '[7]')")
    ((payload,),) = [record.wait_for(1)]
    assert (payload["task"], payload["args"]) == ("shop.invoice", [7])
    notifier.subscribe("volatile", channel, record)
    notifier.unsubscribe("outbox", channel, forget=True)
    assert log.execute("SELECT count(*) FROM pgnotifier.subscription") == [(0,)]


def test_what_was_published_meanwhile_arrives(log, make_notifier, record):
    """A notifier that starts again gets what was published while none ran."""
    first = make_notifier(log.dsn)
    first.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", 1)
    record.wait_for(1)
    first.stop()
    log.publish("paid", 2, 3)
    second = make_notifier(log.dsn)
    second.subscribe("invoice", "paid", record, durable=True)
    assert record.wait_for(3) == ONE_TO_THREE


def test_what_is_rolled_back_does_not_arrive(notifier, log, record):
    """Nothing of a transaction that is rolled back is delivered, and all of one that commits."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    with psycopg.connect(log.dsn) as undone:
        undone.execute("SELECT pgnotifier.publish('paid', 'undone')")
        undone.rollback()
    log.publish_together("paid", *ONE_TO_THREE)
    assert record.wait_for(3) == ONE_TO_THREE


def test_large_payloads_and_equal_ones(notifier, log, record):
    """There is no limit of 8,000 bytes, and equal payloads of a transaction stay separate."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    large = "x" * 100_000
    log.publish_together("paid", large, large)
    assert record.wait_for(2) == [large, large]


def test_payloads_of_many_megabytes(notifier, log, record):
    """Large payloads are read in parts, so that a batch of them fits into memory."""
    payloads = [letter * 5_000_000 for letter in "abcde"]
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish_together("paid", *payloads)
    assert record.wait_for(5) == payloads
    with psycopg.connect(log.dsn) as reader:
        read = "SELECT count(*), bool_or(is_rest) FROM pgnotifier.read('paid', '1:1:', %s, %s, 10)"
        (now,) = reader.execute("SELECT pgnotifier.snapshot()::text").fetchone()
        assert reader.execute(read, (now, 0)).fetchone() == (4, False)
        assert reader.execute(read, (now, 4)).fetchone() == (1, True)


def test_large_payloads_that_fail(notifier, log, eventually):
    """They are retried in parts, too."""
    payloads = [letter * 5_000_000 for letter in "abcde"]
    callback = Recalcitrant(dict.fromkeys(payloads, 1))
    notifier.subscribe("invoice", "paid", callback, durable=True)
    log.publish_together("paid", *payloads)
    eventually(lambda: len(callback.calls) >= 5)
    log.have_retried()  # those that have failed by now; the others follow after a second
    eventually(lambda: len(callback.calls) >= 10 and log.failed("invoice") == [])
    assert sorted(callback.calls) == sorted([*payloads, *payloads])


def test_more_than_a_batch(notifier, log, record):
    """Thousands of entries arrive in order, each once."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish_together("paid", *range(2500))
    log.publish("paid", *range(2500, 2600))
    assert record.wait_for(2600) == list(range(2600))


def test_a_flood_is_looked_at_now_and_then(notifier, log, record):
    """While many entries come, what has come since the last look is read, and saved, together."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", "first")
    record.wait_for(1)
    began = time.monotonic()
    for number in range(60):
        log.publish_together("paid", *range(20 * number, 20 * number + 20))
    assert record.wait_for(1201)[1:] == list(range(1200))
    seconds = time.monotonic() - began
    ((saves,),) = log.execute("SELECT count(*) FROM pgnotifier.position")
    assert saves <= 5 + seconds / FLOOD_PAUSE


def test_a_ring_during_a_query(notifier, log, record, monkeypatch):
    """What is published while the reader looks, and too late to be found, is read at once after.

    Its ring arrives with the answer to the query, so nothing is left in the socket that would wake
    the reader.
    """
    advance, missed = LogSession.advance, []

    def advance_slowly(self, *args, **more):
        fetched = advance(self, *args, **more)
        if self.is_dozing and not missed:
            missed.append(fetched)
            log.publish("paid", 1)
            self.connection.execute("SELECT pg_sleep(0.2)")
        return fetched

    monkeypatch.setattr(LogSession, "advance", advance_slowly)
    for module, name in (
        (source, "FIRST_POLL"),
        (source, "LAST_POLL"),
        (retries, "CHECK_PAUSE"),
    ):
        monkeypatch.setattr(module, name, 600.0)
    notifier.subscribe("invoice", "paid", record, durable=True)
    assert record.wait_for(1) == [1]
    assert missed[0].rows == []


def test_a_session_that_is_given_up_during_a_flood(log):
    """What is settled is saved first, though more isn't looked for yet: others may go on then."""
    subscription = Subscription(
        "invoice", "paid", print, InlineDispatcher(), durability=Durability(start="oldest")
    )
    binding, items = Binding(subscription, None, lambda *_: None), []
    with Parameters(log.dsn).connect() as connection:
        session = LogSession(connection)
        sub = session.subscribe("invoice", "paid", "oldest")
        progress = Progress(binding, items.extend, lambda: None, lambda *_: None)
        progress.become(sub)
        log.publish_together("paid", *range(20))
        progress.visit(session)
        while items:
            Delivery(binding, items.pop().arrival(None)).settle()
        progress.save(session)
        assert progress.tally.delivered == 20
        assert not progress.is_busy
        again = Progress(binding, items.extend, lambda: None, lambda *_: None)
        again.become(sub)
        again.visit(session)
    assert items == []


def test_subscriptions_of_a_channel_progress_by_themselves(notifier, log, make_recorder):
    """A subscription that is stuck doesn't hold up another one of the same channel."""
    go_on, other = threading.Event(), make_recorder()
    stuck = make_recorder()

    def wait(*args):
        go_on.wait(60)
        stuck(*args)

    notifier.subscribe("stuck", "paid", wait, durable=True, dispatcher=ThreadDispatcher())
    notifier.subscribe("other", "paid", other, durable=True)
    log.publish("paid", *ONE_TO_THREE)
    assert other.wait_for(3) == ONE_TO_THREE
    assert stuck.payloads == []
    go_on.set()
    assert stuck.wait_for(3) == ONE_TO_THREE


def test_beside_a_volatile_subscription(notifier, log, make_recorder):
    """A volatile subscription gets notifications, a durable one what is published."""
    volatile, durable = make_recorder(), make_recorder()
    notifier.subscribe("volatile", "paid", volatile)
    notifier.subscribe("durable", "paid", durable, durable=True)
    log.notify("paid", "notified")
    log.publish("paid", "published")
    assert volatile.wait_for(1) == ["notified"]
    assert durable.wait_for(1) == ["published"]
    log.notify("paid", "again")
    assert volatile.wait_for(2) == ["notified", "again"]
    assert durable.payloads == ["published"]


def test_only_what_is_published_on_its_channel(notifier, log, record):
    """Entries of other channels aren't delivered."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish("other", 1)
    log.publish("paid", 2)
    assert record.wait_for(1) == [2]


@pytest.mark.parametrize(("start", "expected"), [("now", [3]), ("oldest", ONE_TO_THREE)])
def test_where_a_new_subscription_starts(notifier, log, record, start, expected):
    """A new subscription starts now, or with the oldest entry that is kept."""
    log.publish("paid", 1, 2)
    notifier.subscribe("invoice", "paid", record, durable=True, start=start)
    log.publish("paid", 3)
    assert record.wait_for(len(expected)) == expected


def test_starting_at_a_time(notifier, log, record):
    """A new subscription gets what was published from a time on."""
    log.publish("paid", 1)
    (since,) = log.execute("SELECT clock_timestamp()")[0]
    log.publish("paid", 2, 3)
    notifier.subscribe("invoice", "paid", record, durable=True, start=since)
    assert record.wait_for(2)[-2:] == [2, 3]


def test_start_means_nothing_once_there_is_a_position(log, make_notifier, record):
    """A subscription continues from its position, whatever `start` says."""
    first = make_notifier(log.dsn)
    first.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", 1)
    record.wait_for(1)
    first.stop()
    log.publish("paid", 2)
    make_notifier(log.dsn).subscribe("invoice", "paid", record, durable=True, start="oldest")
    log.publish("paid", 3)
    assert record.wait_for(3) == ONE_TO_THREE


def test_seeking(notifier, log, record):
    """`seek` delivers again from an entry on, or leaves out everything until now."""
    ids = log.publish("paid", *ONE_TO_THREE)
    notifier.subscribe("invoice", "paid", record, durable=True, start="oldest")
    record.wait_for(3)
    notifier.seek("invoice", "paid", ids[1])
    assert record.wait_for(5)[3:] == [2, 3]
    notifier.mute_subscriber("invoice")
    log.publish("paid", "passed")
    notifier.seek("invoice", "paid", "now")
    notifier.unmute_subscriber("invoice")
    log.publish("paid", 4)
    assert record.wait_for(6)[5:] == [4]


def test_seeking_what_nobody_has_subscribed(notifier, log):
    """A subscription without a position can't be moved."""
    with pytest.raises(UnknownSubscriptionError, match="'invoice' on channel 'paid'"):
        notifier.seek("invoice", "paid", "now")


def test_unsubscribing_keeps_the_position(notifier, log, record):
    """Who unsubscribes and subscribes again gets what was published in between."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", 1)
    record.wait_for(1)
    notifier.unsubscribe("invoice", "paid")
    log.publish("paid", 2)
    notifier.subscribe("invoice", "paid", record, durable=True)
    assert record.wait_for(2) == [1, 2]


def test_forgetting(notifier, log, record):
    """With `forget`, the position is deleted, and what has failed with it."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    notifier.unsubscribe("invoice", "paid", forget=True)
    assert log.execute("SELECT * FROM pgnotifier.subscription") == []
    log.publish("paid", 1)
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", 2)
    assert record.wait_for(1) == [2]


def test_a_muted_subscription_waits(notifier, log, record):
    """What is published while a subscription is muted is delivered afterwards."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    notifier.mute_channels("paid")
    log.publish("paid", 1, 2)
    assert record.payloads == []
    notifier.unmute_channels()
    log.publish("paid", 3)
    assert record.wait_for(3) == ONE_TO_THREE


def test_subscribing_again_loses_nothing(notifier, log, make_recorder, eventually):
    """Another callback, with another dispatcher, gets what the one before hasn't got."""
    before, after = make_recorder(), make_recorder()
    notifier.subscribe("invoice", "paid", before, durable=True)
    for number in range(300):
        log.publish("paid", number)
        if number == 150:
            by = ThreadDispatcher()
            notifier.subscribe("invoice", "paid", after, durable=True, dispatcher=by)
    eventually(lambda: {*before.payloads, *after.payloads} == set(range(300)))


def test_the_notification(log, make_notifier, eventually):
    """Hooks get the entry's id, key, time and attempt."""
    errors = []
    notifier = make_notifier(
        log.dsn, on_error=lambda exc, subscription, arrived: errors.append(arrived)
    )
    callback = Recalcitrant({1: 1})
    notifier.subscribe("invoice", "paid", callback, durable=True)
    before = datetime.now(UTC)
    (number,) = log.publish("paid", 1, key="k")
    eventually(lambda: errors)
    (arrived,) = errors
    assert (arrived.id, arrived.key, arrived.attempt, arrived.raw) == (number, "k", 1, "1")
    assert abs(arrived.published_at - before).total_seconds() < 60


def test_a_failure_is_retried_beside_the_flow(notifier, log, eventually):
    """What fails holds up nothing, and is tried again later."""
    callback = Recalcitrant({2: 1})
    notifier.subscribe("invoice", "paid", callback, durable=True)
    ids = log.publish("paid", *ONE_TO_THREE)
    eventually(lambda: callback.calls[:3] == ONE_TO_THREE)
    eventually(lambda: log.failed("invoice") == [(ids[1], 1, False)])
    log.have_retried()
    eventually(lambda: callback.calls == [*ONE_TO_THREE, 2])
    eventually(lambda: log.failed("invoice") == [])


def test_failed_entries_with_one_number(notifier, log, eventually):
    """Of two entries with one number, which a logical replica may have, each is retried."""
    callback = Recalcitrant({"second": 1})
    notifier.subscribe("invoice", "paid", callback, durable=True)
    for payload in (b"first", b"second"):
        log.execute(
            "SELECT pgnotifier.fail(sub, 7, now(), channel, NULL, %s, 'error', NULL, 0, false)"
            " FROM pgnotifier.subscription",
            payload,
        )
    eventually(lambda: log.failed("invoice") == [] or callback.calls[-1:] == ["second"])
    log.have_retried()
    eventually(lambda: log.failed("invoice") == [])
    assert callback.calls == ["first", "second", "second"]


def test_a_dead_letter(notifier, log, eventually, caplog):
    """What fails as often as it may is set aside, with its error, and is an ERROR in the log."""
    callback = Recalcitrant({2: 9})
    notifier.subscribe("invoice", "paid", callback, durable=True, max_attempts=2)
    ids = log.publish("paid", *ONE_TO_THREE)
    eventually(lambda: log.failed("invoice") == [(ids[1], 1, False)])
    log.have_retried()
    eventually(lambda: log.failed("invoice") == [(ids[1], 2, True)])
    log.have_retried()
    log.publish("paid", 4)
    eventually(lambda: callback.calls == [*ONE_TO_THREE, 2, 4])
    ((error, traceback),) = log.execute("SELECT error, traceback FROM pgnotifier.failed")
    assert error == "ValueError: not 2"
    assert "in __call__" in traceback
    eventually(lambda: f"entry {ids[1]} has failed 2 times" in caplog.text)


def test_on_failure_stop(notifier, log, eventually, caplog):
    """With `on_failure="stop"`, nothing later is delivered until an entry has succeeded."""
    callback = Recalcitrant({2: 2})
    notifier.subscribe("invoice", "paid", callback, durable=True, on_failure="stop")
    log.publish("paid", *ONE_TO_THREE)
    eventually(lambda: callback.calls == [1, 2, 2, 2, 3])
    assert log.failed("invoice") == []
    assert [r.pgnotifier_event for r in caplog.records].count("held_up") == 1


def test_batches(notifier, log, record):
    """With `batch=`, a callback gets lists."""
    notifier.subscribe("invoice", "paid", record, durable=True, batch=(2, 60))
    log.publish_together("paid", *range(4))
    assert record.wait_for(2) == [[0, 1], [2, 3]]


def test_debouncing(notifier, log, record, eventually):
    """With `debounce=`, of equal payloads only the last is delivered, and the others are done."""
    notifier.subscribe("invoice", "paid", record, durable=True, debounce=0.05)
    log.publish_together("paid", 1, 1, 2, 1)
    assert sorted(record.wait_for(2)) == [1, 2]
    notifier.unsubscribe("invoice", "paid")
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", 3)
    assert record.wait_for(3)[2:] == [3]


def test_a_callback_may_stop_its_notifier(log, make_notifier, record, eventually):
    """An entry is done although its callback has called `stop()`."""
    notifier = make_notifier(log.dsn)

    def stop(*args):
        record(*args)
        notifier.stop()

    notifier.subscribe("invoice", "paid", stop, durable=True)
    log.publish("paid", 1)
    record.wait_for(1)
    eventually(lambda: log.readers() == [])
    another = make_notifier(log.dsn)
    another.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", 2)
    assert record.wait_for(2) == [1, 2]


def test_a_callback_may_subscribe(notifier, log, record):
    """A durable callback can subscribe another one, with the same dispatcher."""

    def subscribe(*_):
        notifier.subscribe("another", "paid", record, durable=True, start="oldest")

    notifier.subscribe("invoice", "paid", subscribe, durable=True)
    log.publish("paid", 1)
    assert record.wait_for(1) == [1]


def test_a_database_without_the_log(notifier, db, record):
    """Subscribing, and starting, say what to run; nothing stays registered or runs."""
    with pytest.raises(LogNotInstalledError, match="pgnotifier install"):
        notifier.subscribe("invoice", "paid", record, durable=True)
    assert notifier.get_subscriptions() == {}
    notifier.subscribe("invoice", "paid", record, autorun=False, durable=True)
    with pytest.raises(LogNotInstalledError, match="pgnotifier install"):
        notifier.start()
    assert not notifier.is_running()


def test_a_role_without_rights(log, record, make_notifier):
    """A role that may not read the log gets an error that says what to grant."""
    log.execute("CREATE ROLE durable_nobody LOGIN")
    try:
        notifier = make_notifier(f"{log.dsn} user=durable_nobody")
        with pytest.raises(LogRefusedError):
            notifier.subscribe("invoice", "paid", record, durable=True)
    finally:
        log.execute("DROP ROLE durable_nobody")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"id": 7}, ArgumentTypeError, "must be a str"),
        ({"id": ""}, ConfigurationError, "1 to 1024 bytes"),
        ({"start": "yesterday"}, ConfigurationError, "'now', 'oldest' or a datetime"),
        ({"start": datetime(2026, 1, 1)}, ConfigurationError, "time zone"),  # noqa: DTZ001
        ({"max_attempts": 0}, ConfigurationError, "at least 1"),
        ({"max_attempts": "many"}, ArgumentTypeError, "an integer"),
        ({"on_failure": "ignore"}, ConfigurationError, "'dead_letter' or 'stop'"),
        ({"durable": False, "start": "now"}, ConfigurationError, "needs durable=True"),
        ({"durable": "yes"}, ArgumentTypeError, "True or False"),
        ({"on_gap": print}, ConfigurationError, "takes no on_gap"),
    ],
)
def test_options_are_checked(notifier, record, options, error, text):
    """Each option that can't work is refused before anything is connected to."""
    given = {"id": "invoice", "channel": "paid", "fn": record, "durable": True} | options
    with pytest.raises(error, match=text):
        notifier.subscribe(**given)
    assert notifier.get_subscriptions() == {}


def test_an_id_is_durable_or_not(notifier, log, record):
    """An id that is subscribed to a channel in one way can't be subscribed in the other as well."""
    notifier.subscribe("invoice", "paid", record)
    with pytest.raises(ConfigurationError, match="is not durable; unsubscribe it first"):
        notifier.subscribe("invoice", "paid", record, durable=True)
    notifier.subscribe("a", "paid", record, durable=True)
    with pytest.raises(ConfigurationError, match="is durable; unsubscribe it first"):
        notifier.subscribe("a", "paid", record)


def test_it_listens_to_nothing(notifier, log, record):
    """A durable subscription's channel is registered, but not listened to."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    assert notifier.get_channels() == {"paid"}
    assert notifier.get_subscriptions() == {"paid": {"invoice": record}}
    log.notify("paid", "unheard")
    log.publish("paid", "published")
    assert record.wait_for(1) == ["published"]


def test_several_replicas(log, make_notifier, record, eventually):
    """Of several notifiers with the same subscriptions, only one gets each entry."""
    for _ in range(3):
        notifier = make_notifier(log.dsn)
        for name in ("a", "b"):
            notifier.subscribe(name, "paid", record, durable=True)
    log.publish("paid", *range(200))
    eventually(lambda: len(record.calls) >= 400)
    for name in ("a", "b"):
        payloads = [call[2] for call in record.calls if call[0] == name]
        assert payloads == list(range(200))


def test_starting_again(notifier, log, record):
    """A notifier that was stopped and started again continues where it was."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", 1)
    record.wait_for(1)
    notifier.stop()
    log.publish("paid", 2)
    notifier.start()
    assert record.wait_for(2) == [1, 2]


def test_status(notifier, log, eventually):
    """`status()` says how far each durable subscription is, and what has failed."""
    go_on, callback = threading.Event(), Recalcitrant({1: 9})

    def wait(*args):
        if args[2] == 2:
            go_on.wait(60)
        callback(*args)

    notifier.subscribe("invoice", "paid", wait, durable=True, max_attempts=1)
    log.publish("paid", 1)
    eventually(lambda: callback.calls == [1])
    ids = log.publish("paid", 2, 3)

    def status():
        ((one,), (shown,)) = notifier.status().durable, notifier.status().to_dict()["durable"]
        assert shown["id"] == one.id == "invoice"
        return one

    eventually(lambda: status().lag_seconds > 0 and status().lag == 2)
    eventually(lambda: status().dead == 1)
    go_on.set()
    eventually(lambda: (status().lag, status().lag_seconds) == (0, 0.0))
    assert (status().last_id, status().failed, status().channel) == (ids[-1], 0, "paid")


def test_space_is_given_back(notifier, log, record, eventually):
    """What every subscription has passed is truncated while the notifier runs."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish_together("paid", *range(100))
    record.wait_for(100)
    log.execute("SELECT pgnotifier.reclaim('0', 0)")  # new entries go to the next slot
    log.publish("paid", 100)
    record.wait_for(101)
    eventually(lambda: log.execute("SELECT count(*) FROM pgnotifier.log")[0][0] < 100, timeout=120)


def test_restarting(notifier, log, record, eventually):
    """`restart()` moves to a new connection for reading the log, too, and repeats nothing."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", 1)
    record.wait_for(1)
    eventually(lambda: log.readers())
    before = log.readers()
    notifier.restart()
    eventually(lambda: (now := log.readers()) and not set(now) & set(before))
    log.publish("paid", 2)
    assert record.wait_for(2) == [1, 2]


def test_readiness(notifier, log, record, eventually):
    """A notifier that can't read the log isn't ready."""
    notifier.subscribe("invoice", "paid", record, durable=True)
    assert notifier.readiness_problems() == []
    log.execute("ALTER SCHEMA pgnotifier RENAME TO elsewhere")
    eventually(lambda: "the durable log can't be read" in "".join(notifier.readiness_problems()))
    log.execute("ALTER SCHEMA elsewhere RENAME TO pgnotifier")
    eventually(lambda: notifier.readiness_problems() == [])
    log.publish("paid", 1)
    assert record.wait_for(1) == [1]


def test_failure_options_of_dispatchers(db):
    """`on_failure` is an option of the log if it is a str, and of the dispatcher otherwise."""
    notifier = Notifier(db.dsn, autorun=False)
    for durable in (False, True):
        with pytest.raises(UnknownOptionError, match="on_failure"):
            notifier.subscribe("a", "a", print, durable=durable, on_failure=print)
    with pytest.raises(ConfigurationError, match="on_failure needs durable=True"):
        notifier.subscribe("a", "a", print, on_failure="stop")
    with pytest.raises(ConfigurationError, match="must be 'dead_letter' or 'stop', not 'halt'"):
        notifier.subscribe("a", "a", print, durable=True, on_failure="halt")
