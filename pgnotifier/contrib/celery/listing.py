"""Make the output of `celery pgnotifier --list`."""

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from celery import Celery

from pgnotifier.cli.listing import durability_of, show_durability, with_durable
from pgnotifier.cli.tables import format_table
from pgnotifier.contrib.celery.arguments import show_id
from pgnotifier.contrib.celery.dispatcher import dispatchers_of
from pgnotifier.contrib.celery.inventory import Enqueued

if TYPE_CHECKING:
    from pgnotifier.notifier import Notifier

_HEADINGS = {
    "channel": "CHANNEL",
    "id": "SUBSCRIPTION",
    "task": "TASK",
    "queue": "QUEUE",
    "path": "PUBLISHED",
}
_EMPTY: Mapping[str, str | None] = dict.fromkeys(field.name for field in fields(Enqueued))


def show_json(app: Celery, notifiers: "Iterable[Notifier]") -> str:
    """Return all subscriptions as a JSON array of objects."""
    return json.dumps(list(_rows(app, notifiers)), indent=2)


def show_table(app: Celery, notifiers: "Iterable[Notifier]") -> str:
    """Return all subscriptions as a table, followed by why some go through `apply_async`."""
    rows = list(_rows(app, notifiers))
    reasons = dict.fromkeys(
        f"{row['task']} goes through apply_async: {row['reason']}" for row in rows if row["reason"]
    )
    shown = show_durability(rows)
    table = format_table(with_durable(_HEADINGS, shown), shown)
    return "\n".join([table, *([""] if reasons else []), *reasons])


def _rows(app: Celery, notifiers: "Iterable[Notifier]") -> Iterator[Mapping[str, Any]]:
    """Yield the subscriptions, ordered by channel, and the channels that have none."""
    for notifier in notifiers:
        tasks: dict[tuple[Hashable, str], Enqueued] = {}
        for dispatcher in dispatchers_of(app):
            if dispatcher.notifier is notifier:
                tasks |= dispatcher.inventory()
        subscriptions = notifier.get_subscriptions()
        for channel in sorted(notifier.get_channels()):
            if channel not in subscriptions:
                yield {**_EMPTY, "channel": channel}
            for key in subscriptions.get(channel, ()):
                enqueued = tasks.get((key, channel))
                in_process = {"id": show_id(key), "channel": channel, "path": "in process"}
                row = enqueued.to_dict() if enqueued else {**_EMPTY, **in_process}
                yield {**row, **durability_of(notifier, key, channel)}
