"""What `pgnotifier listen --list` prints."""

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
    """Return them as a table."""
    return format_table(_HEADINGS, _rows(notifiers))


def _rows(notifiers: Iterable[Notifier]) -> Iterator[Mapping[str, str | None]]:
    """Yield what there is, by channel: subscriptions, and channels without any."""
    for notifier in notifiers:
        subscriptions = notifier.get_subscriptions()
        for channel in sorted(notifier.get_channels()):
            if channel not in subscriptions:
                yield {"channel": channel, "id": None, "callback": None}
            for key, fn in subscriptions.get(channel, {}).items():
                yield {"channel": channel, "id": spell(key), "callback": name_callable(fn)}
