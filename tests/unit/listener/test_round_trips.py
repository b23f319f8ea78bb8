"""What round trips prove, and when the next one is due."""

from time import monotonic

from pgnotifier._listener.round_trips import PROOF, RoundTrips
from pgnotifier._runtime.clock import Moment


def test_notifications_make_the_next_one_due_soon():
    """The first notification after a round trip makes the next one due soon; others don't."""
    trips = RoundTrips(600.0)
    trips.note_success(Moment.now())
    assert 500 < trips.due_in <= 600
    trips.note_arrival()
    assert trips.is_unproven
    assert 0 < trips.due_in <= PROOF
    due_at = trips.due_at
    trips.note_arrival()
    assert trips.due_at == due_at


def test_one_that_is_due_sooner_stays_so():
    """A notification doesn't delay a round trip that is due sooner."""
    trips = RoundTrips(0.01)
    trips.note_success(Moment.now())
    due_at = trips.due_at
    trips.note_arrival()
    assert trips.due_at == due_at


def test_success_proves_what_was_committed_before_the_query():
    """A round trip proves what was committed before its query, and nothing later."""
    trips = RoundTrips(15.0)
    begun = Moment.now().earlier(2.0)
    trips.note_arrival()
    trips.note_success(begun)
    assert trips.proven_at == begun
    assert not trips.is_unproven
    assert trips.latency.last >= 2.0
    assert trips.due_at > monotonic() + 10
