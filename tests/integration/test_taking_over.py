"""Several notifiers of one standby name: one hears, the others take over."""

import itertools
import threading

import psycopg
import pytest

from pgnotifier import ArgumentTypeError, Notifier


@pytest.fixture
def join(pgnotifier_dsn, make_notifier, make_recorder):
    """Return a maker of notifiers that share a standby name, with what they have heard."""

    def join(name="shop", **settings):
        gaps = []
        notifier = make_notifier(pgnotifier_dsn, standby=name, on_gap=gaps.append, **settings)
        record = make_recorder()
        notifier.subscribe("a", "ch", record)
        return notifier, record, gaps

    return join


def states(*notifiers):
    """Return the state of each."""
    return [notifier.status().state for notifier in notifiers]


def test_one_hears(join, db, settle):
    """Of two with one name only the first delivers; the other stands by."""
    (first, heard, _), (second, idle, _) = join(), join()
    assert states(first, second) == ["listening", "standby"]
    db.notify("ch", 1)
    settle(first)
    assert heard.payloads == [1]
    assert idle.payloads == []
    assert second.status().received == 0


def test_names_are_apart(join, db):
    """Notifiers of different names, or of none, all hear."""
    joined = [join("one"), join("two"), join(None)]
    assert states(*(notifier for notifier, *_ in joined)) == ["listening"] * 3
    db.notify("ch", 1)
    for _, record, _ in joined:
        assert record.wait_for(1) == [1]


def test_takes_over_when_the_leader_stops(join, db, eventually):
    """With all that was subscribed meanwhile, and a gap that covers the time between."""
    (first, heard, _), (second, record, gaps) = join(), join()
    second.subscribe("b", "later", record)
    second.add_channels(["empty", "gone"])
    second.remove_channel("gone")
    db.notify("ch", 1)
    heard.wait_for(1)
    first.stop()
    eventually(lambda: states(second) == ["listening"])
    db.notify("ch", 2)
    db.notify("later", 3)
    assert record.wait_for(2) == [2, 3]
    (gap,) = eventually(lambda: gaps)
    assert gap.channels == {"ch", "later", "empty"}
    assert "another listener led" in gap.reason
    first.start()
    assert states(first, second) == ["standby", "listening"]


def test_nobody_led(join, db, eventually):
    """Who is the first to come has no gap to report."""
    first, _, gaps = join()
    first.stop()
    eventually(lambda: not db.listening())
    second, _, more = join()
    assert states(second) == ["listening"]
    assert gaps == more == []


def test_restart_of_a_standby(join, eventually):
    """A standby stays one, without a gap."""
    (first, *_), (second, _, gaps) = join(), join()
    second.restart()
    assert states(first, second) == ["listening", "standby"]
    assert gaps == []


def test_the_name_is_a_str(pgnotifier_dsn):
    """Anything else is refused."""
    with pytest.raises(ArgumentTypeError, match="standby"):
        Notifier(pgnotifier_dsn, standby=True)


def test_sessions_end_under_load(join, db, eventually):
    """However often leaders lose their sessions: nothing twice, and what is missing is in a gap."""
    joined = [join() for _ in range(3)]
    done, sent = threading.Event(), {}

    def send():
        with psycopg.connect(db.dsn, autocommit=True, application_name="test") as connection:
            for number in itertools.count():
                if done.is_set():
                    return
                (before,) = connection.execute("SELECT clock_timestamp()").fetchone()
                connection.execute("SELECT pg_notify('ch', %s)", (str(number),))
                (after,) = connection.execute("SELECT clock_timestamp()").fetchone()
                sent[number] = (before, after)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(8):
            eventually(lambda: "listening" in states(*(n for n, *_ in joined)))
            heard = sum(len(record.calls) for _, record, _ in joined)
            eventually(lambda h=heard: sum(len(r.calls) for _, r, _ in joined) > h + 20)
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        eventually(lambda: "listening" in states(*(n for n, *_ in joined)))
    finally:
        done.set()
        sender.join()

    def is_heard():
        db.notify("ch", None)  # behind all others
        return any(None in record.payloads for _, record, _ in joined)

    eventually(is_heard)
    for notifier, *_ in joined:
        notifier.stop()
    payloads = [n for _, record, _ in joined for n in record.payloads if n is not None]
    assert len(payloads) == len(set(payloads))
    gaps = [gap for *_, gaps in joined for gap in gaps]
    for number in sent.keys() - set(payloads):
        before, after = sent[number]
        assert any(gap.since <= after and before <= gap.until for gap in gaps), number
