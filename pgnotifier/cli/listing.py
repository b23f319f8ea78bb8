"""Format channels and subscriptions for `pgnotifier listen --list`."""

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
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
    rows = show_durability(_rows(notifiers))
    return format_table(with_durable(_HEADINGS, rows), rows)


def durability_of(notifier: Notifier, id: Hashable, channel: str) -> dict[str, Any]:
    """Return the fields of a row about how its subscription reads the log; none if it doesn't."""
    durability = notifier.get_durability(id, channel)
    return {} if durability is None else {"durable": True, **durability.to_dict()}


def show_durability(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with these options in one column of a table."""
    return [{**row, "durable": join_options(row) if row.get("durable") else None} for row in rows]


def join_options(given: Mapping[str, Any]) -> str:
    """Return the options of a durable subscription in one line."""
    names = ("start", "max_attempts", "on_failure", "max_lag", "max_age")
    return " ".join(f"{name}={given[name]}" for name in names if name in given)


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
                yield row | durability_of(notifier, key, channel)
