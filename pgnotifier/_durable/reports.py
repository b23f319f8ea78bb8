"""Log messages about entries that have failed."""

import logging

from pgnotifier._delivery.portions import Row
from pgnotifier._log.dead_letters import Failure
from pgnotifier._runtime.log_records import about, count
from pgnotifier.dispatch import Subscription

logger = logging.getLogger("pgnotifier.durable")


def report_held(subscription: Subscription, row: Row) -> None:
    """Log that an entry holds its subscription up."""
    logger.error(
        "subscription %r on channel %r is held up by entry %d, which has failed: later "
        "entries wait until it succeeds, or seek() passes it",
        subscription.id,
        subscription.channel,
        row.id,
        extra=about(
            "held_up",
            subscription=subscription.id,
            channel=subscription.channel,
            entry=row.id,
        ),
    )


def report_dead(subscription: Subscription, row: Row, failure: Failure) -> None:
    """Log that an entry has become a dead letter, if it has."""
    if not failure.is_dead:
        return
    attempts = row.attempts + 1
    logger.error(
        "subscription %r on channel %r: entry %d has failed %s, and is set aside; see "
        "`pgnotifier dead list`",
        subscription.id,
        subscription.channel,
        row.id,
        count(attempts, "time"),
        extra=about(
            "dead_letter",
            subscription=subscription.id,
            channel=subscription.channel,
            entry=row.id,
            count=attempts,
        ),
    )
