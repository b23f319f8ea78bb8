"""Ids of tasks and jobs: the same for the same entries and subscription, else different."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from uuid import RFC_4122, UUID, uuid5

from deliveries import NOW, Fake, bind
from hypothesis import given
from hypothesis import strategies as st

from pgnotifier._runtime.identifying import Identifier
from pgnotifier.dispatch import Delivery
from pgnotifier.notification import Entry, Notification

NAMESPACE = UUID("0d1f9a3e-6a4f-5c59-9c0b-2f6f5f8b8b51")
EARLIEST = datetime(1970, 1, 1)  # noqa: DTZ001 - hypothesis adds the zone
TIMES = st.datetimes(min_value=EARLIEST, timezones=st.just(UTC))


def entry(number, at=NOW, parts=()):
    """Return an entry."""
    return Entry("a", 1, "", 0, NOW, max(1, len(parts)), parts, id=number, published_at=at)


@given(st.dictionaries(st.integers(1, 2**62 - 1), TIMES, min_size=1))
def test_entries(known):
    """Each entry has a UUID of version 8, which doesn't depend on what is asked for with it."""
    entries = [entry(number, at) for number, at in known.items()]
    identifier = Identifier("a", "ch")
    together = identifier.identify_each(entries)
    assert together == [identifier.identify(one) for one in entries]
    assert len(set(together)) == len(entries)
    for one in together:
        assert str(UUID(one)) == one
        assert UUID(one).version == 8
        assert UUID(one).variant == RFC_4122


@given(TIMES, st.integers(1, 2**62 - 1))
def test_the_same_number_at_another_time(at, number):
    """A restored database may use a number again."""
    identifier = Identifier("a", "ch")
    later = at + timedelta(microseconds=1) if at.year < 9999 else at - timedelta(microseconds=1)
    assert identifier.identify(entry(number, at)) != identifier.identify(entry(number, later))
    moved = at.astimezone(timezone(timedelta(hours=5))) if at.year < 9999 else at
    assert identifier.identify(entry(number, at)) == identifier.identify(entry(number, moved))


def test_other_subscriptions():
    """Entries have other ids for each subscription: another id, or the same on another channel."""
    identifiers = [Identifier(*one) for one in (("a", "b"), ("b", "a"), (("a",), "b"), ("a", "c"))]
    found = {one.identify(entry(number)) for one in identifiers for number in range(1, 100)}
    assert len(found) == 4 * 99


def test_an_id_that_stays():
    """Ids must be the same with later versions: a task may be in a queue while one is installed."""
    identifier = Identifier("invoice", "order_paid")
    assert identifier.identify(entry(7)) == "c95337d4-1162-8fb2-9ad6-f9323596809e"
    assert identifier.identify_group([entry(7), entry(8)]) == "e6f10e03-de21-5501-a7e8-cce43b99a613"


def test_deliveries():
    """That of a gathered delivery depends on all of its entries, if there are several."""
    binding = bind(Fake(), id=("a", 1))
    first, second = entry(1), entry(2, NOW + timedelta(microseconds=1))
    alone = Delivery(binding, first)
    assert alone.identify() == UUID(alone.identify_as_text())
    assert Delivery(binding, entry(1, parts=(first,))).identify() == alone.identify()
    both = Delivery(binding, entry(2, parts=(first, second)))
    shown = [f'{one.id} "{one.published_at.isoformat()[:-6]}Z"' for one in (first, second)]
    assert both.identify() == uuid5(NAMESPACE, repr((("a", 1), "a", shown)))
    assert Delivery(binding, Notification("a", 1, "", 0, NOW)).identify() is None


def test_entries_without_a_time():
    """A time that is missing counts as none, and ids still differ."""
    ids = Identifier("a", "ch").identify_each([entry(number, None) for number in range(1, 9)])
    assert all(one != other for one, other in pairwise(sorted(ids)))
