"""Show the listeners in Django's admin, read-only."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils import formats, timezone
from django.utils.dateparse import parse_datetime
from django.utils.formats import localize
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from pgnotifier.contrib.django.models import Listener
from pgnotifier.contrib.django.watching import spell_durable


@admin.register(Listener)
class ListenerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows the state and the statistics of each listener."""

    list_display = ("name", "condition", "channel_count", "received", "rate_shown", "errors",
                    "gap_count", "seen_at")  # fmt: skip
    fields = ("name", "database", "condition", "started_at", "seen_at", "received", "rate_shown",
              "errors", "channel_table", "delivery_table", "gap_table")  # fmt: skip
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: only listeners write rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False

    @admin.display(description="state")
    def condition(self, listener: Listener) -> str:
        """Return the listener's state with its reason, or that it has stopped reporting."""
        if listener.is_silent:
            return f"silent (was {listener.state})"
        why = listener.status.get("why")
        # When a listener ends, `state` becomes "stopped", but its status stays as it was.
        is_current = listener.status.get("state") == listener.state
        return f"{listener.state}: {why}" if why and is_current else listener.state

    @admin.display(description="per second", ordering="rate")
    def rate_shown(self, listener: Listener) -> str:
        """Return how many notifications per second it has received lately."""
        return f"{listener.rate:,.1f}"

    @admin.display(description="channels")
    def channel_count(self, listener: Listener) -> int:
        """Return how many channels it listens to."""
        return len(listener.channels)

    @admin.display(description="gaps")
    def gap_count(self, listener: Listener) -> int:
        """Return how many gaps it has reported."""
        return int(listener.status.get("gaps", 0))

    @admin.display(description="channels and subscriptions")
    def channel_table(self, listener: Listener) -> SafeString:
        """Return the receivers and tasks of each channel."""
        return _table(
            ("channel", "receivers", "tasks", "durable"),
            (
                (
                    _names([row["channel"]]),
                    *map(_names, (row["receivers"], row["tasks"], spell_durable(row))),
                )
                for row in listener.channels
            ),
        )

    @admin.display(description="deliveries")
    def delivery_table(self, listener: Listener) -> SafeString:
        """Return the statistics of each dispatcher."""
        return _table(
            ("through", "delivered", "waiting", "dropped", "retrying"),
            (
                (
                    DISPATCHERS.get(row.get("name"), row.get("name")),
                    *(localize(row.get(name, "")) for name in ("delivered", "waiting", "dropped")),
                    "yes" if row.get("retrying") else "no",
                )
                for row in listener.status.get("dispatchers", [])
            ),
        )

    @admin.display(description="last gaps")
    def gap_table(self, listener: Listener) -> SafeString:
        """Return the latest gaps."""
        return _table(
            ("since", "until", "channels", "reason"),
            (
                (_time(gap["since"]), _time(gap["until"]), _names(gap["channels"]), gap["reason"])
                for gap in listener.gaps
            ),
        )


DISPATCHERS = {
    "SignalDispatcher": "receivers",
    "HereDispatcher": "inline",
    "CeleryDispatcher": "celery",
    "RQDispatcher": "rq",
    "TaskDispatcher": "tasks",
}
"""The names of dispatchers in `PGNOTIFIER["DISPATCHER"]`, by class."""


def _names(names: Iterable[str]) -> SafeString:
    """Return names, one per line, with their white space preserved."""
    lines = ((name,) for name in names)
    return format_html_join("", '<div style="white-space: pre-wrap">{}</div>', lines)


def _time(text: str) -> SafeString | str:
    """Return a time in the current language and time zone, to the second."""
    try:
        given = parse_datetime(text)
    except ValueError:
        given = None
    if given is None:
        return text
    zone = timezone.get_current_timezone()  # without USE_TZ, this is TIME_ZONE
    there = given.astimezone(zone)
    shown = f"{formats.date_format(there, 'DATE_FORMAT')}, {there:%H:%M:%S}"
    return format_html('<time datetime="{}">{}</time>', text, shown)


def _table(headings: Iterable[str], rows: Iterable[Iterable[Any]]) -> SafeString:
    head = format_html_join("", "<th>{}</th>", ((heading,) for heading in headings))
    body = format_html_join(
        "",
        "<tr>{}</tr>",
        ((format_html_join("", "<td>{}</td>", ((cell,) for cell in row)),) for row in rows),
    )
    if not body:
        return format_html("{}", "none")
    return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", head, body)
