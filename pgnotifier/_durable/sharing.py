"""Sharing: replicas divide subscriptions that are behind, so that each has something to deliver."""

import math
from collections.abc import Collection
from time import monotonic

from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.moves import notice_moves
from pgnotifier._durable.news import find_news
from pgnotifier._durable.progress import Progress

AT_ONCE = 2
"""How many subscriptions a source takes while there is more to read: the batch of one is delivered
while that of the next is read."""
YOUNG = 1.0
"""Seconds after which others don't wait any longer for a batch of which nothing is settled."""
OFFER_PAUSE = 0.25
"""Seconds between two offers to other replicas."""


class Sharing:
    """Decides which subscriptions a source reads next. The source's thread owns it.

    Otherwise, the first replica would keep all of them for as long as there is more to read. So a
    source takes those that have waited longest, a few at a time. Now and then it leaves one alone
    for a moment, if it has another one to deliver meanwhile, and wakes replicas that have nothing.
    """

    def __init__(self) -> None:
        """Begin without an offer."""
        self._offered_at = -math.inf

    def visit_all(self, session: LogSession, progress: Collection[Progress]) -> bool:
        """Visit each subscription; return whether some of them found something.

        Raises:
            psycopg.Error: The session has ended, or refuses something.
        """
        is_offered, session.is_offered = session.is_offered, False
        if is_offered and not any(map(_is_ahead, progress)):
            for one in progress:
                one.try_again()
        notice_moves(session, progress)
        found = False
        for one in sorted(find_news(session, progress), key=lambda one: one.read_at):
            others = [other for other in progress if other is not one]
            offers = (
                _has_landed(one)
                and monotonic() >= self._offered_at + OFFER_PAUSE
                and any(other.is_busy for other in others)
            )
            if offers:
                one.leave_alone()
            may_read = sum(map(_is_ahead, others)) < AT_ONCE
            found = one.visit(session, may_read=may_read) or found
            if offers:
                self._offered_at = monotonic()
                session.offer()
        return found


def _is_ahead(one: Progress) -> bool:
    """Return whether a batch is under way that others have to wait for, and more will follow.

    They don't wait for long if they can be delivered side by side: this one may hang.
    """
    flight, binding = one.flight, one.binding
    if flight is None or flight.has_ended or not (flight.is_followed and binding.live):
        return False
    if not binding.dispatcher.settles_itself and binding.gathering is None:
        return True
    return len(flight.ledger.left) == len(flight.rows) and monotonic() < one.read_at + YOUNG


def _has_landed(one: Progress) -> bool:
    """Return whether a batch has just been delivered, and there is more to read."""
    return one.flight is not None and one.flight.has_ended and one.flight.is_followed
