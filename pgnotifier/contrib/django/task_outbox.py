"""Have the tasks of the project's Celery app published in Django's transactions.

Celery is imported here, so this module is imported only if `PGNOTIFIER["OUTBOX"]` is set.
"""

import asyncio
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from celery import Celery
from django.db import connections

from pgnotifier._log.composing import Draft
from pgnotifier._log.outbox_entries import Outbox
from pgnotifier.contrib.celery import CeleryOutbox
from pgnotifier.contrib.celery.outbox_capture import Capture, takes_part
from pgnotifier.contrib.celery.relay import find_relayed
from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.notifiers import get_notifier


def use_outbox(app: Celery, aliases: Sequence[str]) -> None:
    """Have all tasks of an app published in Django's transactions, and relayed.

    Args:
        app: The app.
        aliases: The databases. A task is inserted into the first of them with an open transaction;
            if there is none, into the first one, where it is committed at once.
    """
    outbox = CeleryOutbox(app)
    insert_at_once(outbox, aliases, conf.get("OUTBOX_EXCLUDE") or ())
    seconds, allow = conf.get("OUTBOX_MAX_AGE"), conf.get("OUTBOX_ALLOW")
    for alias in aliases:
        notifier = get_notifier(alias)
        before = find_relayed(outbox, notifier)
        # What the project itself has given to `relay_to` takes precedence over the settings.
        missing: dict[str, Any] = {}
        if before.allow is None and allow is not None:
            missing["allow"] = allow
        if before.max_age is None and seconds is not None:
            missing["max_age"] = timedelta(seconds=seconds)
        if missing or not before.exists:
            outbox.relay_to(notifier, **missing)


def insert_at_once(
    outbox: CeleryOutbox, aliases: Sequence[str], exclude: Iterable[str] = ()
) -> None:
    """Have all tasks of an outbox's app published in Django's transactions, without a relay.

    Args:
        outbox: The outbox.
        aliases: As for `use_outbox`.
        exclude: The names or patterns of tasks that are published as without an outbox.
    """
    Capture.of(outbox.app).finders.append(_Sink(outbox, aliases, tuple(exclude)).find)


class _Sink:
    """Inserts each message at once, so that it is part of the transaction that is open then."""

    def __init__(
        self, outbox: CeleryOutbox, aliases: Sequence[str], exclude: tuple[str, ...]
    ) -> None:
        self._app: Any = outbox.app
        self._log = Outbox(outbox.channel, outbox.subscription)
        self._aliases = aliases
        self._exclude = exclude

    def find(self) -> "_Sink | None":
        """Return the sink; None in asynchronous code, which has no connection of Django.

        It has one if DJANGO_ALLOW_ASYNC_UNSAFE is set:
        https://docs.djangoproject.com/en/stable/topics/async/#async-safety
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self
        return self if os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE") else None

    def takes(self, task: str) -> bool:
        """Return whether a task is published in transactions."""
        return takes_part(self._app, task, self._exclude)

    def add(self, draft: Draft) -> None:
        """Insert an entry."""
        given = [connections[alias] for alias in self._aliases]
        chosen = next(filter(_is_in_transaction, given), given[0])
        self._log.insert(chosen, [draft])


def _is_in_transaction(connection: Any) -> bool:
    """Return whether somebody is going to commit, or roll back, what is inserted now.

    That is so without autocommit, too. `get_autocommit()` would connect.
    """
    is_connected = connection.connection is not None
    return connection.in_atomic_block or (is_connected and not connection.autocommit)
