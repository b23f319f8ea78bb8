"""Show durable subscriptions in the admin: how far behind they are, and who reads them."""

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION
from django.db import connections
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import localize
from django.utils.html import format_html
from django.utils.safestring import SafeString

from pgnotifier._log.overview import log_state, positions
from pgnotifier._log.positions import Start, forget, seek
from pgnotifier.contrib.django.durable.log_admin import (
    DatabaseFilter,
    LogAdmin,
    LogChangeList,
    driver_of,
    find_alias,
    take,
)
from pgnotifier.contrib.django.durable.models import DurableSubscription
from pgnotifier.status import Position

NONE = "-"


class SeekForm(forms.Form):
    """Where to move subscriptions to."""

    to = forms.ChoiceField(
        label="Move to",
        choices=[
            ("oldest", "the oldest entry that is kept: deliver all of them again"),
            ("time", "a time: deliver what was published then and later"),
            ("now", "now: skip what was not delivered yet"),
        ],
        widget=forms.RadioSelect,
    )
    time = forms.DateTimeField(
        required=False, widget=forms.DateTimeInput(attrs={"type": "datetime-local", "step": 1})
    )

    def clean(self) -> dict[str, Any]:
        """Require a time if a time was chosen."""
        given: dict[str, Any] = super().clean() or {}
        if given.get("to") == "time" and given.get("time") is None and "time" not in self.errors:
            self.add_error("time", "Enter a time.")
        return given

    def start(self) -> Start:
        """Return the place."""
        if self.cleaned_data["to"] != "time":
            place: Start = self.cleaned_data["to"]
            return place
        time: datetime = self.cleaned_data["time"]
        return timezone.make_aware(time) if timezone.is_naive(time) else time


class _SubscriptionList(LogChangeList):
    """A list of subscriptions with their positions, read in one query."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        found = find_positions(str(find_alias(request)))
        self.result_list = [*self.result_list]
        for one in self.result_list:
            one.position = found.get((one.name, one.channel))


def find_positions(alias: str) -> dict[tuple[str, str], Position]:
    """Return the positions in a database, by the name and the channel of their subscriptions."""
    return {(one.name, one.channel): one for one in positions(connections[alias])}


@admin.register(DurableSubscription)
class DurableSubscriptionAdmin(LogAdmin):
    """Shows all durable subscriptions, including those that nobody reads any more."""

    ordering = ("name", "channel")
    list_display = (
        "name", "channel", "lag", "behind", "rate", "failed", "dead", "reader", "kept",
    )  # fmt: skip
    list_filter = (DatabaseFilter,)
    sortable_by = ("name", "channel")
    search_fields = ("name", "channel")
    actions = ("seek", "forget")
    fields = (
        "name", "channel", "at", "saved_at", "lag", "behind", "max_lag", "dropped", "rate",
        "failed", "attempts", "dead", "reader", "unread_since", "kept",
    )  # fmt: skip
    readonly_fields = fields

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Allow it in the list, where an action asks first."""
        return obj is None and super().has_delete_permission(request, obj)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the class of lists."""
        return _SubscriptionList

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        """Return a subscription with its position."""
        found = super().get_object(request, object_id, from_field)
        if found is not None:
            all_of_them = find_positions(found._state.db)
            found.position = all_of_them.get((found.name, found.channel))
        return found

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Look for a part of the id or the channel."""
        term = search_term.strip()
        wanted = Q(name__icontains=term) | Q(channel__icontains=term)
        return (queryset.filter(wanted) if term else queryset), False

    def add_context(self, request: HttpRequest, context: Any) -> dict[str, Any]:
        """Show the size of the log above the list, and what holds its space back."""
        given = super().add_context(request, context)
        if request.method == "GET":
            given["log"] = log_state(connections[str(find_alias(request))])
        return given

    # --- columns ---

    @admin.display(description="entries behind")
    def lag(self, one: Any) -> str:
        """Return how many entries it has not got."""
        return _show(one, "lag")

    @admin.display(description="behind by")
    def behind(self, one: Any) -> str:
        """Return how old the oldest of them is."""
        place: Position | None = one.position
        return NONE if place is None else f"{place.lag_seconds:,.0f} s"

    @admin.display(description="per second")
    def rate(self, one: Any) -> str:
        """Return how many it has got in the last minute."""
        place: Position | None = one.position
        return NONE if place is None or place.rate is None else f"{place.rate:,.1f}"

    @admin.display(description="being retried")
    def failed(self, one: Any) -> SafeString | str:
        """Return how many have failed and are retried, with a link to them."""
        return _link(one, "failed", "retried")

    @admin.display(description="dead letters")
    def dead(self, one: Any) -> SafeString | str:
        """Return how many are dead, with a link to them."""
        return _link(one, "dead", None)

    @admin.display(description="most attempts")
    def attempts(self, one: Any) -> str:
        """Return the most attempts that any failed entry has had."""
        return _show(one, "attempts")

    @admin.display(description="read by pid")
    def reader(self, one: Any) -> str:
        """Return which session in the server reads it."""
        place: Position | None = one.position
        return "nobody" if place is None or place.reader_pid is None else str(place.reader_pid)

    @admin.display(description="keeps")
    def kept(self, one: Any) -> str:
        """Return how much of the log's space it keeps from being reclaimed."""
        place: Position | None = one.position
        return NONE if place is None else filesizeformat(place.kept_bytes)

    @admin.display(description="position saved")
    def saved_at(self, one: Any) -> str:
        """Return when its position was last saved."""
        return _show(one, "saved_at")

    @admin.display(description="unread since")
    def unread_since(self, one: Any) -> str:
        """Return since when nobody reads it."""
        return _show(one, "unread_since")

    @admin.display(description="max_lag")
    def max_lag(self, one: Any) -> str:
        """Return how far it may be behind."""
        return _show(one, "max_lag")

    @admin.display(description="dropped")
    def dropped(self, one: Any) -> str:
        """Return how many entries were dropped because of that, and not reported yet."""
        return _show(one, "dropped")

    # --- actions ---

    @admin.action(description="Seek: move selected %(verbose_name_plural)s", permissions=["act"])
    def seek(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Move them, after asking where to."""
        form = SeekForm(request.POST if request.POST.get("confirmed") else None)
        if not form.is_valid():
            question = "Where to move these durable subscriptions?"
            return self.ask(
                request, queryset, question, action="seek", form=form, is_destructive=False
            )
        chosen, driver, start = take(queryset), driver_of(queryset), form.start()
        moved = [one for one in chosen if seek(driver, one.name, one.channel, start)]
        self.note(request, moved, CHANGE, f"Moved to {start}.")
        self.message_user(request, f"{len(moved)} moved.", messages.SUCCESS)
        return None

    @admin.action(description="Forget selected %(verbose_name_plural)s", permissions=["delete"])
    def forget(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Delete them with their positions and dead letters, after asking."""
        if not request.POST.get("confirmed"):
            question = (
                "Forget these durable subscriptions, with their positions and dead letters? "
                "One that is still read begins again, where its start= says."
            )
            return self.ask(request, queryset, question, action="forget")
        chosen, driver = take(queryset), driver_of(queryset)
        self.note(request, chosen, DELETION, "Forgotten.")
        count = sum(forget(driver, one.name, one.channel) for one in chosen)
        self.message_user(request, f"{count} forgotten.", messages.SUCCESS)
        return None

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> Any:
        """Leave out the admin's own action."""
        since_django_6_1 = {} if action_location is None else {"action_location": action_location}
        found = super().get_actions(request, **since_django_6_1)
        found.pop("delete_selected", None)
        return found


def _show(one: Any, name: str) -> str:
    """Return a figure of a subscription's position."""
    value = None if one.position is None else getattr(one.position, name)
    if isinstance(value, datetime):
        value = timezone.localtime(value)
    return NONE if value is None else str(localize(value))


def _link(one: Any, name: str, state: str | None) -> SafeString | str:
    """Return a figure with a link to the list of those entries."""
    count = _show(one, name)
    if count in (NONE, "0"):
        return count
    given = {"subscription": one.name, "channel": one.channel, "database": one._state.db}
    if state is not None:
        given["state"] = state
    address = reverse("admin:pgnotifier_durable_deadletter_changelist")
    return format_html('<a href="{}?{}">{}</a>', address, urlencode(given), count)
