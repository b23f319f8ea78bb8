"""Durable subscriptions that are behind are limited, described and warned of."""

import threading
from datetime import timedelta

import pytest

from pgnotifier import Notifier, ThreadDispatcher
from pgnotifier.durable import MaxLag, install, log_state, positions
from pgnotifier.errors import ArgumentTypeError, ConfigurationError

ONLY_TWO = MaxLag(entries=2)


def reclaim(log):
    """Give space back, as a reader of any subscription does, with slots of one entry."""
    log.execute("SELECT pgnotifier.reclaim('0', 1)")


def fall_behind(log, make_notifier, *payloads, max_lag=ONLY_TWO):
    """Subscribe, stop, and publish what nobody reads; have the limit applied."""
    first = make_notifier(log.dsn)
    first.subscribe("invoice", "paid", print, durable=True, max_lag=max_lag)
    first.stop()
    log.publish("paid", *payloads)
    reclaim(log)


def records(caplog, event):
    """Return the log's records of an event."""
    return [one for one in caplog.records if getattr(one, "pgnotifier_event", None) == event]


def test_a_gap_is_reported_once(log, make_notifier, record, eventually, caplog):
    """What was dropped while nobody ran it is a gap, once, before anything else is delivered."""
    fall_behind(log, make_notifier, *range(5))
    gaps = []

    def on_gap(gap):
        gaps.append((gap, list(record.payloads)))

    second = make_notifier(log.dsn, on_gap=on_gap)
    second.subscribe("invoice", "paid", record, durable=True, max_lag=ONLY_TWO)
    assert record.wait_for(2) == [3, 4]
    ((gap, before),) = gaps
    assert before == []
    (dropped,) = gap.dropped
    assert (dropped.subscription, dropped.channel) == ("invoice", "paid")
    assert (dropped.entries, dropped.is_exact, dropped.from_id, dropped.to_id) == (3, True, 1, 3)
    assert gap.channels == {"paid"}
    assert gap.to_dict()["dropped"][0]["entries"] == 3
    assert second.status().last_gap == gap
    (logged,) = records(caplog, "dropped_behind")
    assert (logged.subscription, logged.count, logged.levelname) == ("invoice", 3, "WARNING")
    assert "has missed 3 entries, from 1 to 3" in logged.getMessage()
    eventually(lambda: log.execute("SELECT count(*) FROM pgnotifier.gap") == [(0,)])
    second.stop()
    third = make_notifier(log.dsn, on_gap=on_gap)
    third.subscribe("invoice", "paid", record, durable=True)
    log.publish("paid", 5)
    assert record.wait_for(3) == [3, 4, 5]
    assert len(gaps) == 1


def test_without_a_hook(log, make_notifier, record, caplog):
    """Without an `on_gap`, it is in the log and in the status."""
    fall_behind(log, make_notifier, *range(3))
    second = make_notifier(log.dsn)
    second.subscribe("invoice", "paid", record, durable=True)
    assert record.wait_for(2) == [1, 2]
    assert [one.levelname for one in records(caplog, "dropped_behind")] == ["WARNING"]
    assert second.status().gaps == 1


@pytest.mark.parametrize("threads", [False, True])
def test_the_gap_of_a_subscription(log, make_notifier, make_recorder, eventually, threads):
    """A subscription's own `on_gap` gets the gap first, whatever delivers it."""
    fall_behind(log, make_notifier, *range(5))
    record = make_recorder()
    second = make_notifier(log.dsn)
    second.subscribe(
        "invoice",
        "paid",
        record,
        durable=True,
        max_lag=ONLY_TWO,
        on_gap=record,
        dispatcher=ThreadDispatcher() if threads else None,
    )
    gap, *rest = record.wait_for(3)
    assert rest == [3, 4]
    assert record.calls[0][:2] == (("invoice", "gap"), "paid")
    assert gap["dropped"][0]["from_id"] == 1
    eventually(lambda: log.execute("SELECT count(*) FROM pgnotifier.gap") == [(0,)])


def test_a_gap_that_was_not_delivered_is_delivered_later(log, make_notifier, make_recorder):
    """If the process ends before its `on_gap` has got the gap, the next one delivers it."""
    fall_behind(log, make_notifier, *range(5))
    began, go_on, record = threading.Event(), threading.Event(), make_recorder()

    def hang(_):
        began.set()
        go_on.wait(60)

    second = make_notifier(log.dsn, on_gap=hang)
    second.subscribe("invoice", "paid", record, durable=True, max_lag=ONLY_TWO, on_gap=record)
    assert began.wait(60)
    second.stop(0.1)
    go_on.set()
    assert record.payloads == []
    third = make_notifier(log.dsn)
    third.subscribe("invoice", "paid", record, durable=True, max_lag=ONLY_TWO, on_gap=record)
    gap, *rest = record.wait_for(3)
    assert (gap["dropped"][0]["entries"], rest) == (3, [3, 4])


def test_a_gap_while_it_is_muted(log, make_notifier, record, eventually):
    """A muted subscription gets the gap once it is unmuted, and then the entries."""
    fall_behind(log, make_notifier, *range(5))
    second = make_notifier(log.dsn)
    options = {"durable": True, "max_lag": ONLY_TWO}
    second.subscribe("invoice", "paid", record, autorun=False, on_gap=record, **options)
    second.mute_channels("paid")
    second.start()
    eventually(lambda: second.status().durable[0].last_id is None)
    second.unmute_channels("paid")
    gap, *rest = record.wait_for(3)
    assert (gap["dropped"][0]["entries"], rest) == (3, [3, 4])


def test_a_slow_subscription(log, make_notifier, make_recorder, eventually):
    """What is dropped while it is busy is a gap, too; what it is busy with isn't repeated."""
    go_on, record, gaps = threading.Event(), make_recorder(), []

    def work(*args):
        record(*args)
        go_on.wait(60)

    notifier = make_notifier(log.dsn, on_gap=gaps.append)
    notifier.subscribe("invoice", "paid", work, durable=True, max_lag=ONLY_TWO)
    log.publish("paid", 0)
    assert record.wait_for(1) == [0]
    log.publish("paid", *range(1, 6))
    reclaim(log)
    go_on.set()
    assert record.wait_for(3) == [0, 4, 5]
    eventually(lambda: len(gaps) == 1)
    assert (gaps[0].dropped[0].from_id, gaps[0].dropped[0].to_id) == (1, 4)


def test_the_limit_outlives_the_subscription(log, make_notifier):
    """The limit stays in the database after `unsubscribe`; subscribing without it removes it."""
    notifier = make_notifier(log.dsn)
    limit = MaxLag(entries=10, bytes=10**9, age=timedelta(days=7))
    notifier.subscribe("invoice", "paid", print, durable=True, max_lag=limit)
    notifier.unsubscribe("invoice", "paid")
    assert positions(log.connection)[0].max_lag == limit
    notifier.subscribe("invoice", "paid", print, durable=True)
    assert positions(log.connection)[0].max_lag is None


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_lag": 5}, ArgumentTypeError, r"MaxLag\(age=timedelta\(days=7\)\)"),
        ({"max_lag": timedelta(days=1)}, ArgumentTypeError, "must be a MaxLag"),
        ({"on_gap": print}, ConfigurationError, "no on_gap without max_lag"),
        ({"max_lag": ONLY_TWO, "durable": False}, ConfigurationError, "max_lag needs durable=True"),
    ],
)
def test_options_that_can_not_work(given, error, message):
    """A limit of another type is refused, and what doesn't go together."""
    with pytest.raises(error, match=message):
        Notifier("dbname=x").subscribe("a", "b", print, **{"durable": True, **given})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, ConfigurationError),
        ({"entries": 0}, ConfigurationError),
        ({"bytes": 2**63}, ConfigurationError),
        ({"age": timedelta()}, ConfigurationError),
        ({"entries": 1.5}, ArgumentTypeError),
        ({"bytes": True}, ArgumentTypeError),
        ({"age": 5}, ArgumentTypeError),
    ],
)
def test_limits_that_can_not_work(given, error):
    """A limit has to be a positive number, or a timedelta."""
    with pytest.raises(error, match="MaxLag"):
        MaxLag(**given)


def test_status(log, make_notifier, record, eventually):
    """The status has the rate, the attempts, and the log with what holds it back."""

    def fail(*_):
        raise ValueError("no")

    log.execute("SELECT pgnotifier.subscribe('forgotten', 'paid')")
    log.publish("paid", "old")
    reclaim(log)
    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", fail, durable=True)
    log.publish("paid", *range(3))
    eventually(lambda: notifier.status().durable[0].rate is not None)
    eventually(lambda: notifier.status().durable[0].attempts >= 1)
    state = notifier.status().log
    assert [one.name for one in state.holders] == ["forgotten"]
    assert notifier.status().to_dict()["log"]["size"] == state.size > 0
    (one,) = [one for one in positions(log.connection) if one.name == "invoice"]
    assert one.reader_pid is not None


def test_what_nobody_reads_is_warned_of(log, make_notifier, record, eventually, caplog):
    """A position that keeps several slots, and that nobody has read for an hour: once a day."""
    log.execute("SELECT pgnotifier.subscribe('forgotten', 'paid')")
    log.execute("SELECT pgnotifier.subscribe('recent', 'paid')")
    for n in range(3):
        log.publish("paid", n)
        reclaim(log)
    log.execute(
        "UPDATE pgnotifier.position SET at = now() - interval '2 hours' WHERE sub ="
        " (SELECT sub FROM pgnotifier.subscription WHERE name = 'forgotten')"
    )
    for _ in range(2):
        notifier = make_notifier(log.dsn)
        notifier.subscribe("invoice", "paid", record, durable=True, start="oldest")
        eventually(lambda: notifier.status().log is not None)  # noqa: B023
        eventually(lambda: records(caplog, "unread") != [])
        notifier.stop()
    (logged,) = records(caplog, "unread")
    assert (logged.subscription, logged.channel, logged.levelname) == (
        "forgotten",
        "paid",
        "WARNING",
    )
    assert "keeps 3 slots of the log" in logged.getMessage()


def test_a_full_log_is_emptied_by_its_readers(log, make_notifier, record, eventually):
    """Once readers have got everything, publishing goes on, though nothing new wakes them."""
    log.execute("SELECT pgnotifier.subscribe('invoice', 'paid')")
    log.execute(
        "INSERT INTO pgnotifier.log (channel, payload)"
        " SELECT 'paid', n::text FROM generate_series(1, 2000) AS n"
    )
    install(log.connection, quota=300_000)
    reclaim(log)
    state = log_state(log.connection)
    assert (state.is_full, state.quota) == (True, 300_000)
    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", record, durable=True)
    assert len(record.wait_for(2000)) == 2000
    eventually(lambda: not log_state(log.connection).is_full)
    log.publish("paid", "again")
    assert record.wait_for(2001)[-1] == "again"


def test_retention(log, make_notifier, record):
    """What everybody has got can be replayed for as long as the retention says."""
    install(log.connection, retention=timedelta(hours=1))
    notifier = make_notifier(log.dsn)
    notifier.subscribe("invoice", "paid", record, durable=True)
    for n in range(3):
        log.publish("paid", n)
        record.wait_for(n + 1)
        reclaim(log)
    notifier.seek("invoice", "paid", "oldest")
    assert record.wait_for(6) == [0, 1, 2, 0, 1, 2]
