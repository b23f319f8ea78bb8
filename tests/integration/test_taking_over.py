"""Of several notifiers with one standby name, one listens, and another one takes over."""

import itertools
import threading

import psycopg
import pytest

from pgnotifier import ArgumentTypeError, Notifier


@pytest.fixture
def join(pgnotifier_dsn, make_notifier, make_recorder):
    """Return a function that makes a notifier with a standby name, a recorder and its gaps."""

    def join(name="shop", **settings):
        gaps = []
        notifier = make_notifier(pgnotifier_dsn, standby=name, on_gap=gaps.append, **settings)
        record = make_recorder()
        notifier.subscribe("a", "ch", record)
        return notifier, record, gaps

    return join


def states(*notifiers):
    """Return the states of notifiers."""
    return [notifier.status().state for notifier in notifiers]


def test_one_listens(join, db, settle):
    """Of two notifiers with one name, only the first delivers; the other is on standby."""
    (first, busy, _), (second, idle, _) = join(), join()
    assert states(first, second) == ["listening", "standby"]
    db.notify("ch", 1)
    settle(first)
    assert busy.payloads == [1]
    assert idle.payloads == []
    assert second.status().received == 0


def test_names_are_apart(join, db):
    """Notifiers with different names, or without a name, all listen."""
    joined = [join("one"), join("two"), join(None)]
    assert states(*(notifier for notifier, *_ in joined)) == ["listening"] * 3
    db.notify("ch", 1)
    for _, record, _ in joined:
        assert record.wait_for(1) == [1]


def test_takes_over_when_the_leader_stops(join, db, eventually):
    """A standby takes over with all of its channels, and reports a gap."""
    (first, busy, _), (second, record, gaps) = join(), join()
    second.subscribe("b", "later", record)
    second.add_channels(["empty", "gone"])
    second.remove_channel("gone")
    db.notify("ch", 1)
    busy.wait_for(1)
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
    """A notifier that starts while there is no leader reports no gap."""
    first, _, gaps = join()
    first.stop()
    eventually(lambda: not db.listening())
    second, _, more = join()
    assert states(second) == ["listening"]
    assert gaps == more == []


def test_restart_of_a_standby(join, eventually):
    """A notifier on standby stays on standby after a restart, without a gap."""
    (first, *_), (second, _, gaps) = join(), join()
    second.restart()
    assert states(first, second) == ["listening", "standby"]
    assert gaps == []


def test_the_name_is_a_str(pgnotifier_dsn):
    """A standby name that isn't a str is refused."""
    with pytest.raises(ArgumentTypeError, match="standby"):
        Notifier(pgnotifier_dsn, standby=True)


def test_sessions_end_under_load(join, db, eventually):
    """If leaders lose their sessions, nothing is delivered twice, and losses are in gaps."""
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
            before = sum(len(record.calls) for _, record, _ in joined)
            eventually(lambda before=before: sum(len(r.calls) for _, r, _ in joined) > before + 20)
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        eventually(lambda: "listening" in states(*(n for n, *_ in joined)))
    finally:
        done.set()
        sender.join()

    def is_delivered():
        db.notify("ch", None)  # after all others
        return any(None in record.payloads for _, record, _ in joined)

    eventually(is_delivered)
    for notifier, *_ in joined:
        notifier.stop()
    payloads = [n for _, record, _ in joined for n in record.payloads if n is not None]
    assert len(payloads) == len(set(payloads))
    gaps = [gap for *_, gaps in joined for gap in gaps]
    for number in sent.keys() - set(payloads):
        before, after = sent[number]
        assert any(gap.since <= after and before <= gap.until for gap in gaps), number
