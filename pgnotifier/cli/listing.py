"""Format channels and subscriptions for `pgnotifier listen --list`."""

import json
from collections.abc import Iterable, Iterator, Mapping

from pgnotifier._runtime.names import name_callable, spell
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
    rows = list(_rows(notifiers))
    lines = [_HEADINGS, *({name: row[name] or "-" for name in _HEADINGS} for row in rows)]
    widths = {name: max(len(line[name]) for line in lines) for name in _HEADINGS}
    table = ("  ".join(line[n].ljust(widths[n]) for n in _HEADINGS).rstrip() for line in lines)
    return "\n".join(table)


def _rows(notifiers: Iterable[Notifier]) -> Iterator[Mapping[str, str | None]]:
    """Yield a row for each subscription, and for each channel without any, by channel."""
    for notifier in notifiers:
        subscriptions = notifier.get_subscriptions()
        for channel in sorted(notifier.get_channels()):
            if channel not in subscriptions:
                yield {"channel": channel, "id": None, "callback": None}
            for key, fn in subscriptions.get(channel, {}).items():
                yield {"channel": channel, "id": spell(key), "callback": name_callable(fn)}
