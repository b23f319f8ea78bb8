"""Batches and debounces of inline callbacks, with a real server."""

import pytest

from pgnotifier import Dispatcher


def test_batches(notifier, db, record):
    """Each call gets a list in commit order: full batches, and the rest once the time is over."""
    notifier.subscribe("a", "ch", record, batch=(10, 0.5))
    db.execute("SELECT pg_notify('ch', n::text) FROM generate_series(1, 25) AS n")
    payloads = record.wait_for(3)
    assert payloads == [list(range(1, 11)), list(range(11, 21)), list(range(21, 26))]
    assert {(key, channel, pid) for key, channel, _, pid in record.calls} == {("a", "ch", db.pid)}


def test_debounce(notifier, db, record, make_recorder):
    """A debounced callback gets each key's latest payload; another subscription gets all."""
    every = make_recorder()
    notifier.subscribe("a", "ch", record, debounce=0.3, key=lambda payload: payload["id"])
    notifier.subscribe("b", "ch", every)
    for number in range(50):
        db.notify("ch", f'{{"id": {number % 2}, "n": {number}}}')
    assert record.wait_for(2) == [{"id": 0, "n": 48}, {"id": 1, "n": 49}]
    assert len(every.wait_for(50)) == 50


def test_stop_delivers_what_is_held(notifier, db, record, make_recorder, settle):
    """`stop()` delivers what batches and debounces hold, which the status counts until then."""
    notifier.subscribe("a", "ch", record, batch=(1000, 3600))
    notifier.subscribe("b", "ch", record, debounce=3600)
    for number in (1, 2, 1):
        db.notify("ch", number)
    settle(notifier)
    (status,) = notifier.status().dispatchers
    assert status.waiting == 5
    assert record.calls == []
    assert notifier.stop() == 0
    assert [(key, payload) for key, _, payload, _ in record.calls] == [
        ("a", [1, 2, 1]),
        ("b", 2),
        ("b", 1),
    ]


def test_a_failure_sets_aside_one_delivery(pgnotifier_dsn, make_notifier, db, record, eventually):
    """If `key` or a batch's callback raises, the error is reported, and others are delivered."""
    errors = []
    notifier = make_notifier(
        pgnotifier_dsn, on_error=lambda exc, _, arrived: errors.append((exc, arrived.payload))
    )

    def refuse(id, channel, payload, pid):
        raise ValueError(payload)

    notifier.subscribe("a", "ch", record, debounce=0.05, key=lambda payload: payload["id"])
    notifier.subscribe("b", "ch", refuse, batch=(2, 60))
    db.notify("ch", 5)
    db.notify("ch", '{"id": 1}')
    assert record.wait_for(1) == [{"id": 1}]
    eventually(lambda: len(errors) == 2)
    assert [(type(exc), payload) for exc, payload in errors] == [
        (TypeError, 5),
        (ValueError, [5, {"id": 1}]),
    ]


def test_removed_while_held(notifier, db, record, settle):
    """A batch isn't delivered if its subscription is removed, but is after a mute has ended."""
    notifier.subscribe("a", "ch", record, batch=(10, 0.2))
    notifier.subscribe("b", "ch", record, batch=(10, 0.2))
    db.notify("ch", 1)
    settle(notifier)
    notifier.mute_subscriber("a")
    notifier.unmute_subscriber("a")
    notifier.unsubscribe("b", "ch")
    db.notify("ch", 2)
    assert record.wait_for(1) == [[1, 2]]
    assert record.ids == ["a"]


class Slow(Dispatcher):
    """A dispatcher that fails the first time."""

    def __init__(self):
        self.failed = False
        self.payloads = []

    def bind(self, subscription):
        return subscription.fn

    def dispatch(self, batch):
        if not self.failed:
            self.failed = True
            raise ConnectionError("down")
        self.payloads += (one.notification.payload for one in batch.one_by_one())


def test_any_dispatcher(notifier, db, eventually):
    """Any dispatcher gets batches, and gets one again if it has failed."""
    slow = Slow()
    notifier.subscribe("a", "ch", print, dispatcher=slow, batch=(2, 60))
    for number in range(4):
        db.notify("ch", number)
    eventually(lambda: slow.payloads == [[0, 1], [2, 3]])


@pytest.mark.parametrize("options", [{"batch": 5}, {"debounce": 0}, {"key": len}])
def test_mistakes_are_refused_at_once(notifier, options):
    """An invalid option raises, and doesn't subscribe."""
    with pytest.raises((TypeError, ValueError)):
        notifier.subscribe("a", "ch", print, autorun=False, **options)
    assert notifier.get_channels() == set()


def test_the_decorator(notifier, db, record):
    """`on()` takes the same options as `subscribe`."""
    notifier.on("ch", id="a", batch=(2, 60))(record)
    db.notify("ch", 1)
    db.notify("ch", 2)
    assert record.wait_for(1) == [[1, 2]]
