"""The admin's page of listeners, to be looked at."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
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
        """Return its state, or that it is no longer heard of."""
        if listener.is_silent:
            return f"silent (was {listener.state})"
        why = listener.status.get("why")
        return f"{listener.state}: {why}" if why and listener.state == "deaf" else listener.state

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
                (row["channel"], ", ".join(row["receivers"]), ", ".join(row["tasks"]))
                for row in listener.channels
            ),
        )

    @admin.display(description="deliveries")
    def delivery_table(self, listener: Listener) -> SafeString:
        """Return what each dispatcher has done."""
        names = ("name", "delivered", "waiting", "dropped", "retrying")
        rows = listener.status.get("dispatchers", [])
        return _table(names, ([row.get(name, "") for name in names] for row in rows))

    @admin.display(description="last gaps")
    def gap_table(self, listener: Listener) -> SafeString:
        """Return the stretches of time in which notifications may have been missed."""
        return _table(
            ("since", "until", "channels", "reason"),
            (
                (gap["since"], gap["until"], ", ".join(gap["channels"]), gap["reason"])
                for gap in listener.gaps
            ),
        )


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
