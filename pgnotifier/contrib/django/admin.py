"""The admin's page of listeners, to be looked at."""

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


@admin.register(Listener)
class ListenerAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows what each listener does, and has done."""

    list_display = ("name", "condition", "channel_count", "received", "rate_shown", "errors",
                    "gap_count", "seen_at")  # fmt: skip
    fields = ("name", "database", "condition", "started_at", "seen_at", "received", "rate_shown",
              "errors", "channel_table", "delivery_table", "gap_table")  # fmt: skip
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: listeners write themselves."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse."""
        return False

    @admin.display(description="state")
    def condition(self, listener: Listener) -> str:
        """Return its state, with the reason if there is one, or that it is no longer heard of."""
        if listener.is_silent:
            return f"silent (was {listener.state})"
        why = listener.status.get("why")
        # A listener that has ended keeps the status that it had.
        is_current = listener.status.get("state") == listener.state
        return f"{listener.state}: {why}" if why and is_current else listener.state

    @admin.display(description="per second", ordering="rate")
    def rate_shown(self, listener: Listener) -> str:
        """Return how many notifications came in a second, lately."""
        return f"{listener.rate:,.1f}"

    @admin.display(description="channels")
    def channel_count(self, listener: Listener) -> int:
        """Return how many channels it hears."""
        return len(listener.channels)

    @admin.display(description="gaps")
    def gap_count(self, listener: Listener) -> int:
        """Return how many gaps there were."""
        return int(listener.status.get("gaps", 0))

    @admin.display(description="channels and subscriptions")
    def channel_table(self, listener: Listener) -> SafeString:
        """Return who is told of what."""
        return _table(
            ("channel", "receivers", "tasks"),
            (
                (_names([row["channel"]]), _names(row["receivers"]), _names(row["tasks"]))
                for row in listener.channels
            ),
        )

    @admin.display(description="deliveries")
    def delivery_table(self, listener: Listener) -> SafeString:
        """Return what each dispatcher has done."""
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
        """Return the stretches of time in which notifications may have been missed."""
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
"""What `PGNOTIFIER["DISPATCHER"]` calls them."""


def _names(names: Iterable[str]) -> SafeString:
    """Return names in lines of their own, with the spaces and commas that they have."""
    lines = ((name,) for name in names)
    return format_html_join("", '<div style="white-space: pre-wrap">{}</div>', lines)


def _time(text: str) -> SafeString | str:
    """Return a time in the language and the zone of who looks at it, to the second."""
    try:
        given = parse_datetime(text)
    except ValueError:
        given = None
    if given is None:
        return text
    zone = timezone.get_current_timezone()  # without USE_TZ, that of TIME_ZONE
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
