"""Upkeep that a worker does now and then after a `Once` task: it reclaims the space of old ids.

It also checks that ids are kept for longer than the broker may redeliver a task.
"""

import logging
from datetime import timedelta
from time import monotonic
from typing import Any

from pgnotifier._log.done import reclaim_done
from pgnotifier._log.sessions import find_session
from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.process import renew_in_children
from pgnotifier._runtime.redaction import redact
from pgnotifier._runtime.sync import ForkSafeLock
from pgnotifier.once import open_block
from pgnotifier.settings import CENTURY

logger = logging.getLogger("pgnotifier.celery")

PAUSE = 300.0
"""Seconds between two rounds of upkeep in a process."""
VISIBILITY_TIMEOUTS = {"redis": 3600.0, "rediss": 3600.0, "sentinel": 3600.0, "sqs": 1800.0}
"""Seconds after which a transport redelivers what isn't acknowledged, unless that is set.
https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout
https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/sqs.html#visibility-timeout"""


class _Looks:
    """When this process does upkeep next, and which tasks it has checked. The lock guards both."""

    def __init__(self) -> None:
        self.lock = ForkSafeLock()
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Start afresh, in a forked child."""
        self._due = 0.0
        self._compared: set[str] = set()

    def is_due(self, task: str) -> bool:
        """Return whether upkeep is due."""
        with self.lock:
            if task in self._compared and monotonic() < self._due:
                return False
            self._compared.add(task)
            self._due = monotonic() + PAUSE
            return True


_looks = _Looks()
_warned: set[str] = set()


def look_after(task: Any, connection: Any) -> None:
    """Reclaim space, and check how long ids are kept, if that is due in this process.

    It never makes the task fail.

    Args:
        task: The task. Its block has ended.
        connection: The connection of the block, which is in no transaction now unless the caller
            has begun one around the block.
    """
    if not _looks.is_due(task.name):
        return
    try:
        if _is_in_transaction(connection):
            return
        with open_block(connection):
            state = reclaim_done(find_session(connection))
    except Exception as exc:  # noqa: BLE001 - of any driver; the task is done
        logger.debug(
            "no space is given back: %s",
            redact(exc),
            extra=about("done_kept", error=type(exc).__name__),
        )
        return
    _compare(task, state.keep)


def _compare(task: Any, keep: timedelta) -> None:
    """Warn once if a task may be redelivered after its id is forgotten."""
    try:
        needed = longest_redelivery(task)
    except Exception as exc:  # noqa: BLE001 - the settings may hold anything; the task is done
        logger.debug(
            "how late task %s may be delivered again isn't known: %s",
            task.name,
            redact(exc),
            extra=about("keep_unchecked", task=task.name, error=type(exc).__name__),
        )
        return
    if keep < needed and task.name not in _warned:
        _warned.add(task.name)
        logger.warning(
            "task %s may be delivered again up to %s after it was done, and its id is kept for %s: "
            "have the owner of the log run `pgnotifier install --keep-done TIME`",
            task.name,
            needed,
            keep,
            extra=about("keep_too_short", task=task.name),
        )


def longest_redelivery(task: Any) -> timedelta:
    """Return how long after its effects a task may be redelivered, by its settings.

    It is the broker's visibility timeout and the pauses between the retries; a task without a limit
    of retries counts as one with a single retry. How long messages wait in a queue isn't known, and
    neither is what the task itself passes to `self.retry()`.
    """
    own = _pauses(task.max_retries, float(task.default_retry_delay or 0))
    pauses = max(own, _automatic_pauses(task))
    return timedelta(seconds=_visibility_timeout(task.app.conf) + pauses)


def _automatic_pauses(task: Any) -> float:
    """Return the seconds of all pauses between the retries of `autoretry_for`.

    Its `retry_kwargs` are arguments of `Task.retry`, and take precedence over the task's settings:
    https://docs.celeryq.dev/en/stable/userguide/tasks.html#automatic-retry-for-known-exceptions
    """
    if not getattr(task, "autoretry_for", ()):
        return 0.0
    given = getattr(task, "retry_kwargs", None) or {}
    retries, pause = given.get("max_retries"), given.get("countdown")
    if getattr(task, "retry_backoff", False):
        pause = getattr(task, "retry_backoff_max", 600)
    return _pauses(
        task.max_retries if retries is None else retries,
        float((task.default_retry_delay if pause is None else pause) or 0),
    )


def _pauses(retries: float | None, pause: float) -> float:
    """Return the seconds of all pauses between retries.

    A number like `sys.maxsize`, with which they take more than a century, stands for no limit.
    """
    if retries is None or not retries * pause <= CENTURY:
        retries = 1
    return min(retries * pause, CENTURY)


def _visibility_timeout(conf: Any) -> float:
    """Return the longest visibility timeout of the brokers, in seconds.

    Several URLs are for brokers that replace each other:
    https://docs.celeryq.dev/en/stable/userguide/configuration.html#broker-url
    """
    if given := (conf.broker_transport_options or {}).get("visibility_timeout"):
        return float(given)
    urls = conf.broker_read_url or conf.broker_url or ()
    texts = [urls] if isinstance(urls, str) else urls
    schemes = [url.partition("://")[0].partition("+")[0] for one in texts for url in one.split(";")]
    return max((VISIBILITY_TIMEOUTS.get(scheme.strip(), 0.0) for scheme in schemes), default=0.0)


def _is_in_transaction(connection: Any) -> bool:
    """Return whether the caller of the task has begun a transaction around its block."""
    if hasattr(connection, "in_atomic_block"):  # of Django
        return bool(connection.in_atomic_block)
    if hasattr(connection, "in_transaction"):  # of SQLAlchemy
        return bool(connection.in_transaction())
    idle = 0  # https://www.psycopg.org/psycopg3/docs/api/pq.html#psycopg.pq.TransactionStatus
    return bool(connection.info.transaction_status != idle)
