"""Format channels and subscriptions for `pgnotifier listen --list`."""

import json
from collections.abc import Iterable, Iterator, Mapping

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
    return format_table(_HEADINGS, _rows(notifiers))


def _rows(notifiers: Iterable[Notifier]) -> Iterator[Mapping[str, str | None]]:
    """Yield a row for each subscription, and for each channel without any, by channel."""
    for notifier in notifiers:
        subscriptions = notifier.get_subscriptions()
        for channel in sorted(notifier.get_channels()):
            if channel not in subscriptions:
                yield {"channel": channel, "id": None, "callback": None}
            for key, fn in subscriptions.get(channel, {}).items():
                yield {"channel": channel, "id": spell(key), "callback": name_callable(fn)}
