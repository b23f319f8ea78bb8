"""What `status()` says of a durable subscription."""

from collections.abc import Hashable
from datetime import UTC, datetime

from pgnotifier._delivery.buffer import Trouble
from pgnotifier._durable.progress import Progress
from pgnotifier.status import DurableStatus


def describe(one: Progress, name: Hashable, channel: str, trouble: Trouble) -> DurableStatus:
    """Return the status of a subscription. Any thread may call it.

    Args:
        one: Its progress.
        name: Its id.
        channel: Its channel.
        trouble: Since when the log can't be read, and why.
    """
    figures, since, flight, lag = one.tally.figures, one.tally.behind_since, one.flight, 0
    if figures is not None and one.is_resting:
        since, lag = figures.oldest, figures.behind
    elif flight is not None:
        newest = flight.rows[-1].id if figures is None else figures.newest
        lag = max(len(flight.rows), newest - flight.rows[0].id + 1)
    seconds = (datetime.now(UTC) - since).total_seconds() if since is not None else 0.0
    return DurableStatus(
        id=str(name),
        channel=channel,
        last_id=one.tally.last_id,
        lag=lag,
        lag_seconds=max(0.0, seconds),
        rate=one.tally.rate,
        attempts=max(one.tally.attempts, figures.attempts if figures is not None else 0),
        failed=figures.failed if figures is not None else 0,
        dead=figures.dead if figures is not None else 0,
        held_since=one.tally.held_since,
        since=trouble.since,
        why=trouble.why,
    )
