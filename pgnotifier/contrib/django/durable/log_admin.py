"""The base of the log's admin pages: any database, bounded queries, and never an error 500."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import LogEntry
from django.contrib.admin.utils import quote, unquote
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth import get_permission_codename
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse

from pgnotifier.contrib.django.durable.databases import find_aliases, reading
from pgnotifier.contrib.django.durable.operations import open_driver
from pgnotifier.errors import LogNotInstalledError, PgNotifierError

COUNTED = 10_000
"""How many rows are counted at most, and how many an action takes at a time."""
NAMED = 20
"""How many rows the page that asks before an action names."""
TEMPLATES = "admin/pgnotifier_durable"


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no more than 10,000 rows, as PostgreSQL reads every row that it counts."""

    @cached_property
    def count(self) -> int:
        """Return how many there are, or 10,000."""
        rows: Any = self.object_list
        return int(rows.order_by()[:COUNTED].count())


class LogChangeList(ChangeList):
    """A list with links that say which database a row is in."""

    def url_for_result(self, result: Any) -> str:
        """Return the address of a row's page."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        site = self.model_admin.admin_site.name
        return reverse(name, args=(quote(spell(result)),), current_app=site)


class DatabaseFilter(admin.SimpleListFilter):
    """Chooses the database, if several have durable channels."""

    title = "database"
    parameter_name = "database"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        """Return the aliases; none if there is only one."""
        found = find_aliases()
        return [(one, one) for one in found] if len(found) > 1 else []

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Leave the rows as they are: `LogAdmin.get_queryset` has chosen the database."""
        return queryset

    def choices(self, changelist: Any) -> Any:
        """Yield the databases; there is no choice of all, and the first one is the default."""
        for alias, title in self.lookup_choices:
            chosen = self.value() or self.lookup_choices[0][0]
            link = changelist.get_query_string({self.parameter_name: alias}, ["p", "q"])
            yield {"selected": alias == chosen, "query_string": link, "display": title}


class LogAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """The base of the pages of dead letters, subscriptions and outboxes."""

    paginator = BoundedPaginator
    list_per_page = 100
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    actions_selection_counter = True

    # --- who may do what ---

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse, as no field can be edited; the permission is for actions."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Allow it to users with the permission to view or to change."""
        return super().has_view_permission(request, obj) or self.has_act_permission(request)

    def has_act_permission(self, request: HttpRequest) -> bool:
        """Allow actions to users with the permission to change."""
        codename = get_permission_codename("change", self.opts)
        user: Any = request.user
        return bool(user.has_perm(f"{self.opts.app_label}.{codename}"))

    # --- which rows ---

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the rows in the database that was chosen."""
        rows: Any = self.model.rows
        found: QuerySet[Any] = rows.using(find_alias(request)).order_by(*self.ordering or ())
        return found

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        """Return a row by its database and its number; None if there is none."""
        alias, number = read_id(object_id)
        if alias is None or not number.isdecimal():
            return None
        return self.get_queryset(request).using(alias).filter(pk=int(number)).first()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the class of lists."""
        return LogChangeList

    # --- pages ---

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Show the list."""
        show = super().changelist_view
        return self.guard(
            request,
            find_alias(request),
            lambda: show(request, self.add_context(request, extra_context)),
        )

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: Any = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> Any:
        """Show one row."""
        show = super().changeform_view
        more = {**(extra_context or {}), "can_act": self.has_act_permission(request)}
        return self.guard(
            request,
            read_id(unquote(object_id or ""))[0],
            lambda: show(request, object_id, form_url, more),
        )

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Ask whether to delete a row, and do so."""
        show = super().delete_view
        return self.guard(
            request,
            read_id(unquote(object_id or ""))[0],
            lambda: show(request, object_id, extra_context),
        )

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Show what was done to a row."""
        show = super().history_view
        return self.guard(
            request,
            read_id(unquote(object_id or ""))[0],
            lambda: show(request, object_id, extra_context),
        )

    def add_context(self, request: HttpRequest, context: Any) -> dict[str, Any]:
        """Return additional context for the list's template."""
        return dict(context or {})

    def guard_one(
        self, request: HttpRequest, object_id: str | None, show: Callable[[], HttpResponseBase]
    ) -> HttpResponseBase:
        """Return the page of one row, as `guard` does."""
        return self.guard(request, read_id(unquote(object_id or ""))[0], show)

    def guard(
        self, request: HttpRequest, alias: str | None, show: Callable[[], HttpResponseBase]
    ) -> HttpResponseBase:
        """Return a page; if its database has no log or refuses, return a page that says so."""
        if not self.has_view_permission(request) and not self.has_delete_permission(request):
            raise PermissionDenied
        try:
            if alias is None:
                raise LogNotInstalledError(
                    "there is no PostgreSQL database of that name with durable channels: see "
                    "PGNOTIFIER['DATABASE']"
                )
            with reading(alias):
                return show()
        except PgNotifierError as exc:
            return self.explain(request, alias, exc)

    def explain(self, request: HttpRequest, alias: str | None, exc: Exception) -> TemplateResponse:
        """Return the page that says why there is nothing to show, or why nothing was done."""
        context = {
            **self.admin_site.each_context(request),
            "title": "The durable log cannot be used",
            "opts": self.opts,
            "alias": alias,
            "reason": str(exc),
            "is_missing": isinstance(exc, LogNotInstalledError),
            "databases": [one for one in find_aliases() if one != alias],
        }
        return TemplateResponse(request, f"{TEMPLATES}/unavailable.html", context)

    # --- actions ---

    def ask(
        self,
        request: HttpRequest,
        queryset: QuerySet[Any],
        question: str,
        *,
        action: str,
        form: Any = None,
        is_destructive: bool = True,
    ) -> TemplateResponse:
        """Return the page that asks before an action; its answer has `confirmed`."""
        chosen = take(queryset)
        context = {
            **self.admin_site.each_context(request),
            "title": question,
            "opts": self.opts,
            "media": self.media,
            "names": [str(one) for one in chosen[:NAMED]],
            "count": len(chosen),
            "is_more": len(chosen) > NAMED,
            "is_bounded": len(chosen) == COUNTED,
            "alias": queryset.db,
            "action": action,
            "across": request.POST.get("select_across", "0"),
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "checkbox": ACTION_CHECKBOX_NAME,
            "last": max((one.pk for one in chosen), default=0),
            "form": form,
            "is_destructive": is_destructive,
        }
        return TemplateResponse(request, f"{TEMPLATES}/confirm.html", context)

    def note(self, request: HttpRequest, rows: Iterable[Any], flag: int, message: str) -> None:
        """Write to the admin's log what was done to some rows."""
        kind = ContentType.objects.get_for_model(self.model, for_concrete_model=False)
        LogEntry.objects.bulk_create(
            [
                LogEntry(
                    user_id=request.user.pk,
                    content_type_id=kind.pk,
                    object_id=spell(one),
                    object_repr=str(one)[:200],
                    action_flag=flag,
                    change_message=message,
                )
                for one in rows
            ],
            batch_size=1000,
        )


def find_alias(request: HttpRequest) -> str | None:
    """Return the database that a request is about; None if there is none with a log."""
    found = find_aliases()
    chosen = request.GET.get("database")
    return chosen if chosen in found else next(iter(found), None)


def read_id(text: str) -> tuple[str | None, str]:
    """Return the database and the number of a row; the database is None if it isn't one of ours."""
    alias, _, number = text.rpartition(":")
    found = find_aliases()
    if not alias:
        return next(iter(found), None), number
    return (alias if alias in found else None), number


def spell(row: Any) -> str:
    """Return the id of a row in the admin: its number, and before it the database."""
    alias = row._state.db
    return str(row.pk) if alias == next(iter(find_aliases()), None) else f"{alias}:{row.pk}"


def take(queryset: QuerySet[Any]) -> list[Any]:
    """Return the rows that an action is about, in the order of their numbers."""
    return [*queryset.order_by("pk")[:COUNTED]]


def driver_of(queryset: QuerySet[Any]) -> Any:
    """Return the driver's connection to the database of a queryset."""
    return open_driver(connections[queryset.db])
