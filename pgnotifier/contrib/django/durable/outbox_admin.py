"""Show outboxes in the admin: what waits and what has failed; send entries again or drop them."""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, DELETION
from django.contrib.admin.utils import quote, unquote
from django.contrib.auth import get_permission_codename
from django.core.exceptions import PermissionDenied
from django.db import connections
from django.http import Http404, HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path

from pgnotifier._log.dead_letters import drop_letters, retry_letters
from pgnotifier._log.outbox_queries import list_entries, outboxes, set_aside
from pgnotifier._log.outbox_values import OutboxState
from pgnotifier.contrib.django.durable.dead_letter_admin import show_call
from pgnotifier.contrib.django.durable.log_admin import (
    COUNTED,
    NAMED,
    TEMPLATES,
    DatabaseFilter,
    LogAdmin,
    LogChangeList,
    find_alias,
    read_id,
    spell,
)
from pgnotifier.contrib.django.durable.models import Outbox
from pgnotifier.contrib.django.durable.operations import open_driver
from pgnotifier.contrib.django.durable.outbox_choice import Chosen, EntryFilter, find_chosen

NONE = "-"
_QUESTIONS = {
    "retry": "Send these messages again?",
    "drop": "Drop these messages?",
    "keep": "Keep these messages as dead letters, instead of sending them now?",
}


class _OutboxList(LogChangeList):
    """A list of outboxes with their figures."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        found = {one.sub: one for one in outboxes(connections[str(find_alias(request))])}
        self.result_list = [*self.result_list]
        for one in self.result_list:
            one.figures = found.get(one.sub)


@admin.register(Outbox)
class OutboxAdmin(LogAdmin):
    """Shows what waits. The permission to change allows sending again; that to delete, dropping."""

    ordering = ("channel", "sub")
    list_display = (
        "title", "relay", "waiting", "oldest", "rate", "failed", "dead", "reader",
    )  # fmt: skip
    list_filter = (DatabaseFilter,)
    sortable_by = ()
    actions = None

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the subscriptions of relays."""
        return super().get_queryset(request).filter(channel__startswith="pgnotifier:")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the class of lists."""
        return _OutboxList

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse, as outboxes aren't deleted here; the permission is for entries."""
        return False

    def has_drop_permission(self, request: HttpRequest) -> bool:
        """Allow it to users with the permission to delete."""
        codename = get_permission_codename("delete", self.opts)
        user: Any = request.user
        return bool(user.has_perm(f"{self.opts.app_label}.{codename}"))

    # --- columns ---

    @admin.display(description="outbox")
    def title(self, one: Any) -> str:
        """Return its name."""
        return NONE if one.figures is None else str(one.figures.name)

    @admin.display(description="relay")
    def relay(self, one: Any) -> str:
        """Return the id of the relay's subscription, which names the app."""
        return str(one.name)

    @admin.display(description="waiting")
    def waiting(self, one: Any) -> str:
        """Return how many entries wait."""
        return NONE if one.figures is None else _count(one.figures)

    @admin.display(description="oldest")
    def oldest(self, one: Any) -> str:
        """Return how old the oldest of them is."""
        return NONE if one.figures is None else f"{one.figures.oldest_seconds:,.0f} s"

    @admin.display(description="per second")
    def rate(self, one: Any) -> str:
        """Return how many were sent in the last minute."""
        found = one.figures
        return NONE if found is None or found.rate is None else f"{found.rate:,.1f}"

    @admin.display(description="being retried")
    def failed(self, one: Any) -> str:
        """Return how many have failed and are tried again."""
        return NONE if one.figures is None else str(one.figures.failed)

    @admin.display(description="dead letters")
    def dead(self, one: Any) -> str:
        """Return how many have failed for good."""
        return NONE if one.figures is None else str(one.figures.dead)

    @admin.display(description="relayed by pid")
    def reader(self, one: Any) -> str:
        """Return the session of the relay."""
        found = one.figures
        return "nobody" if found is None or found.reader_pid is None else str(found.reader_pid)

    # --- the page of one ---

    def get_urls(self) -> Any:
        """Add the pages of entries."""
        view = self.admin_site.admin_view(self.entry_view)
        name = f"{self.opts.app_label}_{self.opts.model_name}_entry"
        pattern = "<path:object_id>/entry/<int:number>/"
        return [path(pattern, view, name=name), *super().get_urls()]

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: Any = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> Any:
        """Show what waits in an outbox and what has failed; handle the page's buttons."""
        given = unquote(object_id or "")

        def show() -> HttpResponseBase:
            one = self._find(request, given)
            if request.method == "POST":
                return self._act(request, one)
            return self._show(request, one)

        return self.guard(request, read_id(given)[0], show)

    def entry_view(self, request: HttpRequest, object_id: str, number: int) -> Any:
        """Show one entry, with those of its arguments that may be shown."""
        given = unquote(object_id)

        def show() -> HttpResponseBase:
            one = self._find(request, given)
            connection = connections[one._state.db]
            found = [
                entry
                for failed in (True, False)
                for entry in list_entries(
                    connection, one.sub, failed=failed, ids=[number], reads=True
                )
            ]
            if not found:
                raise Http404
            context = {
                **self.admin_site.each_context(request),
                "title": f"Entry {number}",
                "opts": self.opts,
                "one": one,
                "entries": [(entry, show_call(entry.payload or "")) for entry in found],
            }
            return TemplateResponse(request, f"{TEMPLATES}/outbox_entry.html", context)

        return self.guard(request, read_id(given)[0], show)

    def _find(self, request: HttpRequest, object_id: str) -> Any:
        if not self.has_view_permission(request):
            raise PermissionDenied
        one = self.get_object(request, object_id)
        if one is None:
            raise Http404
        return one

    def _show(self, request: HttpRequest, one: Any) -> TemplateResponse:
        connection = connections[one._state.db]
        chosen = EntryFilter.of(request)
        figures = next((each for each in outboxes(connection) if each.sub == one.sub), None)
        context = {
            **self.admin_site.each_context(request),
            "title": str(one),
            "opts": self.opts,
            "media": self.media,
            "one": one,
            "id": quote(spell(one)),
            "figures": figures,
            "waiting": None if figures is None else _count(figures),
            "pages": [chosen.show(connection, one.sub, kind) for kind in chosen.kinds],
            "filter": chosen,
            "most": COUNTED,
            "checkbox": ACTION_CHECKBOX_NAME,
            "can_act": self.has_act_permission(request),
            "can_drop": self.has_drop_permission(request),
        }
        return TemplateResponse(request, f"{TEMPLATES}/outbox.html", context)

    # --- actions ---

    def _act(self, request: HttpRequest, one: Any) -> HttpResponseBase:
        """Send entries again, drop them or keep them as dead letters, after asking."""
        action = request.POST.get("action", "")
        allowed = {
            "retry": self.has_act_permission,
            "drop": self.has_drop_permission,
            "keep": self.has_drop_permission,
        }
        if action not in allowed or not allowed[action](request):
            raise PermissionDenied
        chosen = find_chosen(request, connections[one._state.db], one.sub, action)
        asks = action != "retry" or chosen.is_all
        if asks and chosen.entries and not request.POST.get("confirmed"):
            return self._ask(request, one, chosen)
        if action == "retry":
            driver = open_driver(connections[one._state.db])
            count = retry_letters(driver, chosen.numbers)
            self._report(request, one, CHANGE, chosen, count, "sent again", "going to be ")
        else:
            self._drop(request, one, chosen)
        return HttpResponseRedirect(request.get_full_path())

    def _drop(self, request: HttpRequest, one: Any, chosen: Chosen) -> None:
        driver = open_driver(connections[one._state.db])
        made: list[int] = []
        is_read = False
        if chosen.waiting:
            ids = [entry.id for entry in chosen.waiting]
            made, is_read = set_aside(driver, one.sub, ids, "set aside in the admin")
        if chosen.action == "keep":
            self._report(request, one, CHANGE, chosen, len(made), "kept as dead letters")
        else:
            count = drop_letters(driver, [*chosen.numbers, *made])
            self._report(request, one, DELETION, chosen, count, "dropped")
        if is_read:
            self.message_user(
                request,
                "The relay was reading: it still sends what it had taken already.",
                messages.WARNING,
            )

    def _ask(self, request: HttpRequest, one: Any, chosen: Chosen) -> TemplateResponse:
        """Return the page that asks whether to do it to these entries."""
        found = chosen.entries
        names = [f"{entry.id}: {entry.task or '?'} {entry.task_id or ''}" for entry in found]
        context = {
            **self.admin_site.each_context(request),
            "title": _QUESTIONS[chosen.action],
            "opts": self.opts,
            "media": self.media,
            "names": names[:NAMED],
            "count": len(found),
            "is_more": len(found) > NAMED,
            "is_bounded": chosen.is_bounded,
            "note": f"{len(chosen.failed):,} have failed, and {len(chosen.waiting):,} wait.",
            "alias": one._state.db,
            "action": chosen.action,
            "across": "1" if chosen.is_all else "0",
            "selected": [] if chosen.is_all else chosen.ticked,
            "checkbox": ACTION_CHECKBOX_NAME,
            "last": chosen.last,
            "is_destructive": chosen.action == "drop",
        }
        return TemplateResponse(request, f"{TEMPLATES}/confirm.html", context)

    def _report(
        self,
        request: HttpRequest,
        one: Any,
        flag: int,
        chosen: Chosen,
        count: int,
        done: str,
        later: str = "",
    ) -> None:
        """Say what was done to so many entries, on the page and in the admin's log."""
        self.note(request, [one], flag, f"{count} {done}.")
        more = "; there may be more: repeat it" if chosen.is_bounded else ""
        shown = f"{count} are {later}{done}" if later else f"{count} {done}"
        level = messages.SUCCESS if count else messages.WARNING
        self.message_user(request, f"{shown}{more}.", level)


def _count(figures: OutboxState) -> str:
    return f"{figures.waiting:,}" if figures.is_exact else f"{figures.waiting:,} or more"
