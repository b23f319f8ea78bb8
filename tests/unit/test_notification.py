"""Notifications and gaps as values."""

import dataclasses
import json
import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest

from pgnotifier import Gap, Notification
from pgnotifier.notification import Arrival

AT = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def test_notification():
    """A notification is frozen, equals one with the same content, and its repr shows it."""
    one = Notification("a", {"n": 1}, '{"n": 1}', 7, AT)
    assert one == Notification("a", {"n": 1}, '{"n": 1}', 7, AT)
    assert one != Notification("b", {"n": 1}, '{"n": 1}', 7, AT)
    assert one.channel == "a"
    assert one.payload == {"n": 1}
    assert one.raw == '{"n": 1}'
    assert one.pid == 7
    assert one.received_at == AT
    assert "channel='a'" in repr(one)
    with pytest.raises(AttributeError):
        one.channel = "b"
    with pytest.raises(AttributeError):
        one.extra = 1


def test_arrival():
    """An `Arrival`, which keeps its bytes, behaves like a `Notification` made from their text."""
    one = Arrival("a", [1], b"[1, '\xff']", 7, AT, 2)
    same = Notification("a", [1], "[1, '\udcff']", 7, AT, 2)
    assert one.raw == same.raw
    assert (one == same, same == one, one == Arrival("a", [1], b"[1, '\xff']", 7, AT, 2)) == (
        True,
    ) * 3
    differ = one != same, same != one
    assert differ == (False, False)
    assert one != Arrival("a", [1], b"[1]", 7, AT, 2)
    assert one != 1
    assert repr(one) == repr(same)
    assert type(pickle.loads(pickle.dumps(one))) is Notification
    assert pickle.loads(pickle.dumps(one)) == same
    assert hash(Arrival("a", 1, b"1", 7, AT)) == hash(Notification("a", 1, "1", 7, AT))
    with pytest.raises(AttributeError):
        one.raw = "b"


def test_gap():
    """A gap is frozen, hashable, and JSON-able with its channels sorted."""
    zone = timezone(timedelta(hours=2))
    gap = Gap(AT, AT.astimezone(zone) + timedelta(seconds=5), frozenset({"b", "a"}), "why")
    with pytest.raises(dataclasses.FrozenInstanceError):
        gap.reason = "other"
    assert hash(gap) == hash(dataclasses.replace(gap))
    found = json.loads(json.dumps(gap.to_dict()))
    assert found["channels"] == ["a", "b"]
    assert found["reason"] == "why"
    assert datetime.fromisoformat(found["since"]) == gap.since
    assert datetime.fromisoformat(found["until"]) == gap.until
