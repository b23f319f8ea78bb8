"""Describing the entry of the log that a task or job was made from, and reading it."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from pgnotifier.dispatchers.origins import describe_entry, describe_receipt, read_entry, write
from pgnotifier.notification import Entry, Notification

AT = datetime(2026, 3, 1, 12, 30, 59, 1200, tzinfo=UTC)
ODD = timezone(timedelta(hours=1, minutes=30, seconds=7))


@pytest.mark.parametrize("micros", [0, 1, 1200, 999_999])
@pytest.mark.parametrize("zone", [UTC, ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata"), ODD])
def test_the_time_of_an_entry(micros, zone):
    """The time is written as `isoformat()` writes it, in any time zone."""
    at = AT.replace(microsecond=micros).astimezone(zone)
    entry = Entry("orders", 7, "7", 0, AT, id=3, published_at=at, attempt=2)
    found = describe_entry(entry)
    assert found == {"id": 3, "attempt": 2, "published_at": at.isoformat()}


def test_what_is_not_an_entry():
    """A notification that isn't of the log has no such values."""
    assert describe_entry(Notification("orders", 7, "7", 5, AT)) == {}


@pytest.mark.parametrize("payload", [{"n": 1}, (1, 2), [float("nan")]])
def test_what_is_read(payload):
    """An entry that was described is read again, with a text that is made of its payload."""
    given = Entry("a", payload, "", 0, AT, 3, id=3, key="k", published_at=AT, attempt=2)
    read = read_entry(describe_receipt(given), "a", payload, 0)
    assert replace(read, raw="") == given
    assert read.raw == write(payload)


def test_what_was_described_by_less():
    """Without times, the time of receipt is now; without a count and an attempt, they are 1."""
    before = datetime.now(UTC)
    read = read_entry({"id": 3}, "a", 1, 0)
    assert (read.id, read.key, read.published_at, read.attempt, read.count) == (3, None, None, 1, 1)
    assert before <= read.received_at <= datetime.now(UTC)


@pytest.mark.parametrize("described", [None, "text", [], {}, {"id": "3"}, {"id": True}])
def test_what_does_not_describe_an_entry(described):
    """Anything that doesn't describe an entry is read as none."""
    assert read_entry(described, "a", 1, 0) is None


def test_odd_values_are_left_out():
    """Values of a wrong type or form don't matter."""
    odd = {"id": 3, "key": 5, "published_at": "now", "received_at": 7, "attempt": "1", "count": ""}
    read = read_entry(odd, "a", 1, 0)
    assert (read.key, read.published_at, read.attempt, read.count) == (None, None, 1, 1)


def test_what_is_not_an_entry_is_not_described():
    """A notification isn't described, so nothing is added to its task or job."""
    assert describe_receipt(Notification("orders", 7, "7", 5, AT)) == {}
