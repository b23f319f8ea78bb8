"""Describing the entry of the log that a task or job was made from."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from pgnotifier.contrib._queues.origins import describe_entry
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
