"""What `status()` says of a durable subscription."""

from collections.abc import Hashable, Iterator, Mapping
from datetime import UTC, datetime

from pgnotifier._delivery.buffer import Trouble
from pgnotifier._durable.progress import Progress
from pgnotifier._runtime.log_records import duration
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


def find_overdue(known: Mapping[tuple[Hashable, str], Progress], trouble: Trouble) -> Iterator[str]:
    """Yield a message for each subscription with an entry that has waited longer than it may.

    Args:
        known: The progress of subscriptions, by their id and channel.
        trouble: As for `describe`.
    """
    for (name, channel), one in known.items():
        max_age = one.durability.max_age
        if max_age is None:
            continue
        waits = describe(one, name, channel, trouble).lag_seconds
        if waits > max_age.total_seconds():
            yield (
                f"subscription {name!r} on channel {channel!r}: the oldest entry has waited for "
                f"{duration(waits)}, and may wait for {duration(max_age.total_seconds())} (max_age)"
            )
