"""Format channels and subscriptions for `pgnotifier listen --list`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pgnotifier._runtime.names import name_callable, spell
from pgnotifier.cli.tables import format_table
from pgnotifier.notifier import Notifier

_HEADINGS = {
    "channel": "CHANNEL",
    "id": "SUBSCRIPTION",
    "callback": "CALLBACK",
}


def show_json(notifiers: Iterable[Notifier]) -> str:
    """Return all subscriptions as a JSON array of objects."""
    return json.dumps(list(_rows(notifiers)), indent=2)


def show_table(notifiers: Iterable[Notifier]) -> str:
    """Return all subscriptions as a table."""
    rows = [{**row, "durable": "yes" if row.get("durable") else None} for row in _rows(notifiers)]
    return format_table(with_durable(_HEADINGS, rows), rows)


def with_durable(headings: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the headings of a table, with one more if some of its subscriptions are durable."""
    more = {"durable": "DURABLE"} if any(row.get("durable") for row in rows) else {}
    return {**headings, **more}


def _rows(notifiers: Iterable[Notifier]) -> Iterator[dict[str, Any]]:
    """Yield a row for each subscription, and for each channel without any, by channel."""
    for notifier in notifiers:
        subscriptions = notifier.get_subscriptions()
        for channel in sorted(notifier.get_channels()):
            if channel not in subscriptions:
                yield {"channel": channel, "id": None, "callback": None}
            for key, fn in subscriptions.get(channel, {}).items():
                row = {"channel": channel, "id": spell(key), "callback": name_callable(fn)}
                yield row | ({"durable": True} if notifier.is_durable(key, channel) else {})
