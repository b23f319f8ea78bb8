"""`Notifier.notify`: values that arrive, values that are refused, and its connection."""

import math
import threading
from datetime import UTC, datetime, time
from decimal import Decimal

import pytest

from pgnotifier import (
    ConnectionFailedError,
    NotifyRefusedError,
    PayloadEncodingError,
    PayloadTooLargeError,
)

VALUES = [
    "",
    "text",
    "42",
    "None",
    "it's \\ %s",
    "ü😀\n\t\x7f",
    "NaN",
    '"quoted"',
    0,
    -1,
    2**64,
    10**4000,
    1.5,
    -0.0,
    1e300,
    math.inf,
    True,
    None,
    ...,
    b"\x00\xff",
    3 - 4j,
    [],
    [1, "a", None, [2.5]],
    {},
    {"a": {"b": [1]}},
    {1: "int key", (1, 2): "tuple key", None: True},
    (),
    (1,),
    (1, (2, 3)),
    {1, 2},
    set(),
    "nul \0 within",
    ["nul \0 within"],
    "\ud800 alone",
]


def types(value):
    """Return the types within a value, so that 1, 1.0 and True differ."""
    if isinstance(value, dict):
        return dict, [(types(key), types(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [types(item) for item in value]
    return type(value)


def test_values_arrive_as_they_are(notifier, record):
    """Each value that JSON or a literal can represent arrives equal, with the same types."""
    notifier.subscribe(1, "a", record)
    for value in VALUES:
        notifier.notify("a", value)
    found = record.wait_for(len(VALUES))
    assert found == VALUES
    assert list(map(types, found)) == list(map(types, VALUES))
    assert math.copysign(1, found[VALUES.index(-0.0, 9)]) == -1


def test_values_that_payloads_have_no_types_for(notifier, record):
    """Values of other types arrive in their default encoding, or in that of an `encoder`."""
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    notifier.subscribe(1, "a", record)
    notifier.notify("a", {"at": at, "price": Decimal("1.50")})
    notifier.notify("a", {"at": at, "price": Decimal("1.50")}, encoder=lambda one: [str(one)])
    assert record.wait_for(2) == [
        {"at": "2026-01-02T03:04:00Z", "price": "1.50"},
        {"at": ["2026-01-02 03:04:00+00:00"], "price": ["1.50"]},
    ]


def test_numbers_keep_their_digits(notifier, db, record):
    """A number arrives as a float only if the float has the same digits."""
    notifier.subscribe(1, "a", record)
    db.execute(
        "SELECT pg_notify('a', to_jsonb(one)::text) FROM unnest(%s::numeric[]) one",
        [["12345678901234567.89", "0.1", "1.10", "3"]],
    )
    found = record.wait_for(4)
    assert found == [Decimal("12345678901234567.89"), 0.1, 1.1, 3]
    assert list(map(type, found)) == [Decimal, float, float, int]


def test_without_a_payload(notifier, record):
    """Without a payload the empty string arrives, as with NOTIFY."""
    notifier.subscribe(1, "a", record)
    notifier.notify("a")
    assert record.wait_for(1) == [""]


@pytest.mark.parametrize(
    "channel", ['My "odd" channel; drop table x', "%s", "it's", "a" * 63, "ü" * 31, "Ä"]
)
def test_any_channel(notifier, record, channel):
    """Each channel that can be listened to can be notified, with the same name."""
    notifier.subscribe(1, channel, record)
    notifier.notify(channel, 1)
    assert record.wait_for(1) == [1]


@pytest.mark.parametrize(
    "fits", ["x" * 7999, "ü" * 3999 + "x", "😀" * 1999 + "xyz", ["y" * 7995]], ids=len
)
def test_the_largest_payload(notifier, record, fits):
    """7,999 bytes of UTF-8 are sent; 8,000 are refused, with both numbers in the message."""
    larger = [fits[0] + "y"] if isinstance(fits, list) else fits + "x"
    notifier.subscribe(1, "a", record)
    notifier.notify("a", fits)
    assert record.wait_for(1) == [fits]
    with pytest.raises(PayloadTooLargeError, match=r"8000 bytes.* 7999 at most") as caught:
        notifier.notify("a", larger)
    assert isinstance(caught.value, ValueError)


def test_refused_before_the_server(make_notifier):
    """A payload that can't be sent is refused without any connection."""
    notifier = make_notifier({"host": "/nowhere"})
    with pytest.raises(PayloadTooLargeError):
        notifier.notify("a", "x" * 8000)
    itself = []
    itself.append(itself)
    for value in (object(), time(1, tzinfo=UTC), frozenset({1}), math.nan, [math.nan], itself):
        with pytest.raises(PayloadEncodingError) as caught:
            notifier.notify("a", value)
        assert isinstance(caught.value, TypeError)
    with pytest.raises(ConnectionFailedError):
        notifier.notify("a", "this needs one")


def test_on_its_own_connection(notifier, db, record, eventually):
    """`notify` neither needs nor starts a running notifier, and has a session of its own."""
    notifier.notify("a", "nobody listens")
    assert not notifier.is_running()
    (publishing,) = db.listening()
    notifier.subscribe(1, "a", record)
    assert len(db.listening()) == 2
    notifier.notify("a", "received")
    record.wait_for(1)
    assert record.calls == [(1, "a", "received", publishing)]
    notifier.stop()
    eventually(lambda: db.listening() == [])
    notifier.notify("a", "again")
    assert len(db.listening()) == 1


def test_after_the_session_was_ended(notifier, db, record, eventually):
    """If the session of `notify` was terminated, it is replaced before the next notification."""
    notifier.subscribe(1, "a", record)
    for number in range(5):
        notifier.notify("a", number)
        assert record.wait_for(number + 1)[-1] == number
        pid = record.calls[-1][3]
        db.execute("SELECT pg_terminate_backend(%s)", pid)
        eventually(lambda pid=pid: pid not in db.listening())
    notifier.notify("a", "last")
    assert record.wait_for(6) == [0, 1, 2, 3, 4, "last"]


def test_refused_by_the_server(notifier, record, monkeypatch):
    """If the server refuses a notification, NotifyRefusedError is raised; the next one is sent."""
    notifier.subscribe(1, "a", record)
    notifier.notify("a", "before")
    with monkeypatch.context() as patch:
        patch.setattr("pgnotifier._connection.publisher._NOTIFY", "SELECT %s::text, %s::text, 1/0")
        with pytest.raises(NotifyRefusedError, match="division by zero") as caught:
            notifier.notify("a", "refused")
    assert isinstance(caught.value, RuntimeError)
    notifier.notify("a", "after")
    assert record.wait_for(2) == ["before", "after"]


def test_from_many_threads(notifier, record):
    """Notifications from many threads all arrive, those of each thread in order."""
    notifier.subscribe(1, "a", record)

    def send(thread):
        for number in range(100):
            notifier.notify("a", [thread, number])

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = record.wait_for(800)
    for thread in range(8):
        assert [number for sender, number in found if sender == thread] == list(range(100))


def test_in_transactions_of_their_own(notifier, record):
    """Equal payloads all arrive; in one transaction, PostgreSQL would merge them."""
    notifier.subscribe(1, "a", record)
    for _ in range(3):
        notifier.notify("a", "same")
    assert record.wait_for(3) == ["same"] * 3
