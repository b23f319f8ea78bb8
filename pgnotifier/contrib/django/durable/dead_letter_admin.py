"""Show dead letters in the admin, retry them and drop them."""

import json
from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION
from django.contrib.admin.utils import unquote
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import connections
from django.db.models import BigIntegerField, BinaryField, F, Func, Q, QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.defaultfilters import filesizeformat
from django.urls import path
from django.utils.html import format_html
from django.utils.safestring import SafeString

from pgnotifier._connection.session import encoding_of
from pgnotifier._log.dead_letters import drop_letters, retry_letters
from pgnotifier._log.outbox_queries import PREFIX, queue_of
from pgnotifier._log.outbox_redaction import Redact, check_redact, describe
from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.durable.log_admin import (
    COUNTED,
    DatabaseFilter,
    LogAdmin,
    driver_of,
    find_alias,
    read_id,
    take,
)
from pgnotifier.contrib.django.durable.models import DeadLetter, DurableSubscription
from pgnotifier.errors import PgNotifierError

SHOWN = 50_000
"""How many characters of a payload, an error or a traceback a page shows."""
SHOWN_IN_LIST = 100
CHOICES = 200
"""How many subscriptions and channels the filters offer."""


class _Bytes(Func):
    """The first characters of a text, in the database's encoding.

    Otherwise, a character that UTF-8 lacks would make each attempt to read the text fail.
    """

    template = (
        f"pg_catalog.convert_to(pg_catalog.left(%(expressions)s, {SHOWN + 1}),"
        " pg_catalog.getdatabaseencoding())"
    )


class _Size(Func):
    """The number of bytes of a text, which PostgreSQL knows without reading it."""

    function = "pg_catalog.octet_length"


class _SubscriptionFilter(admin.SimpleListFilter):
    """Chooses dead letters by the subscription's id."""

    title = "subscription"
    parameter_name = "subscription"
    column = "name"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        """Return those of all subscriptions, whether or not they have dead letters."""
        rows = DurableSubscription.rows.using(find_alias(request)).order_by(self.column)
        names = rows.values_list(self.column, flat=True).distinct()[:CHOICES]
        return [(name, name) for name in names]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return only those of the subscription."""
        chosen = self.value()
        return queryset if chosen is None else queryset.filter(subscription__name=chosen)


class _ChannelFilter(_SubscriptionFilter):
    """Chooses dead letters by their channel."""

    title = "channel"
    parameter_name = column = "channel"

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return only those of the channel."""
        chosen = self.value()
        return queryset if chosen is None else queryset.filter(channel=chosen)


class _QueueFilter(admin.SimpleListFilter):
    """Chooses dead letters of an outbox by their queue."""

    title = "queue of an outbox"
    parameter_name = "queue"
    AS_ROUTED = ""  # which isn't the name of a queue

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        """Return the queues of the latest letters."""
        found = {queue: queue or "as routed" for queue in self._find_keys(find_alias(request))}
        return sorted(found.items())[:CHOICES]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return only those for the queue."""
        chosen = self.value()
        if chosen is None:
            return queryset
        keys = self._find_keys(queryset.db).get(str(chosen), ())
        wanted = Q(key__isnull=True) if chosen == self.AS_ROUTED else Q(key__in=keys)
        return queryset.filter(wanted, channel__startswith=PREFIX)

    def _find_keys(self, alias: str | None) -> dict[str, list[str]]:
        """Return the keys of each queue: each has a priority."""
        letters = DeadLetter.rows.using(alias)
        latest = letters.filter(channel__startswith=PREFIX).order_by("-n").values("n")[:COUNTED]
        rows = letters.filter(n__in=latest).annotate(data=_Bytes("key", output_field=BinaryField()))
        keys = [*rows.order_by().values_list("data", flat=True).distinct()]  # connects, if need be
        encoding = encoding_of(connections[letters.db].connection)
        found: dict[str, list[str]] = {}
        for data in keys:
            text = (
                None if data is None else encoding.to_utf8(bytes(data)).decode("utf-8", "replace")
            )
            found.setdefault(queue_of(text) or self.AS_ROUTED, []).append(text or "")
        return found


class _StateFilter(admin.SimpleListFilter):
    """Shows dead letters unless something else is chosen."""

    title = "state"
    parameter_name = "state"
    RETRIED, ALL = "retried", "all"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        """Return the other choices."""
        return [(self.RETRIED, "still being retried"), (self.ALL, "all")]

    def choices(self, changelist: Any) -> Any:
        """Yield the choices; the first one is the default."""
        for value, title in [(None, "dead"), *self.lookup_choices]:
            link = (
                changelist.get_query_string(remove=[self.parameter_name])
                if value is None
                else changelist.get_query_string({self.parameter_name: value})
            )
            yield {"selected": self.value() == value, "query_string": link, "display": title}

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        """Return the rows in that state."""
        chosen = self.value()
        return queryset if chosen == self.ALL else queryset.filter(dead=chosen != self.RETRIED)


@admin.register(DeadLetter)
class DeadLetterAdmin(LogAdmin):
    """Shows failed entries. The permission to change allows retrying; that to delete, dropping."""

    ordering = ("-n",)
    list_display = (
        "n", "name_shown", "channel", "entry", "attempts", "size_shown", "failed_at", "error_line",
    )  # fmt: skip
    list_filter = (DatabaseFilter, _StateFilter, _SubscriptionFilter, _ChannelFilter, _QueueFilter)
    sortable_by = ("n",)
    search_fields = ("key",)  # see `get_search_results`
    search_help_text = "The number of an entry, a key, or a part of an error"
    actions = ("retry", "drop")
    fields = (
        "n", "name_shown", "channel", "entry", "published_at", "key_text", "attempts", "condition",
        "failed_at", "error_text", "traceback_text", "size_shown", "payload_text",
    )  # fmt: skip
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return rows without the columns that may be large."""
        return (
            super()
            .get_queryset(request)
            .annotate(
                name=F("subscription__name"),
                size=_Size("payload", output_field=BigIntegerField()),
                error_start=Left("error", SHOWN_IN_LIST + 1),
            )
            .defer("key", "payload", "error", "traceback")
        )

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        """Return a row with the beginning of its texts."""
        found = super().get_object(request, object_id, from_field)
        if found is None:
            return None
        names = ("key", "error", "traceback", "payload")
        rows = DeadLetter.rows.using(found._state.db).filter(pk=found.pk)
        starts = {f"{name}_bytes": _Bytes(name, output_field=BinaryField()) for name in names}
        texts = rows.values(**starts).first()
        encoding = encoding_of(connections[found._state.db].connection)
        found.texts = {
            name: None
            if (data := (texts or {}).get(f"{name}_bytes")) is None
            else encoding.to_utf8(bytes(data)).decode("utf-8", "replace")
            for name in names
        }
        return found

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Look for a key, a part of an error, or the number of an entry; payloads are too large."""
        term = search_term.strip()
        if not term:
            return queryset, False
        wanted = Q(key=term) | Q(error__icontains=term)
        if term.isdecimal():
            wanted |= Q(entry=int(term)) | Q(n=int(term))
        return queryset.filter(wanted), False

    # --- columns ---

    @admin.display(description="subscription")
    def name_shown(self, letter: Any) -> str:
        """Return the subscription's id."""
        return str(letter.name)

    @admin.display(description="size of payload")
    def size_shown(self, letter: Any) -> str:
        """Return the bytes of the payload."""
        return filesizeformat(letter.size)

    @admin.display(description="error")
    def error_line(self, letter: Any) -> str:
        """Return the beginning of the error."""
        error = " ".join((letter.error_start or "").split())
        return error if len(error) <= SHOWN_IN_LIST else f"{error[: SHOWN_IN_LIST - 1]}…"

    @admin.display(description="state")
    def condition(self, letter: Any) -> str:
        """Return whether it is retried."""
        return "dead" if letter.dead else "is going to be retried"

    @admin.display(description="key")
    def key_text(self, letter: Any) -> SafeString | str:
        """Return its key."""
        return show_text(letter.texts["key"])

    @admin.display(description="error")
    def error_text(self, letter: Any) -> SafeString | str:
        """Return the error."""
        return show_text(letter.texts["error"])

    @admin.display(description="traceback")
    def traceback_text(self, letter: Any) -> SafeString | str:
        """Return the traceback."""
        return show_text(letter.texts["traceback"])

    @admin.display(description="payload")
    def payload_text(self, letter: Any) -> SafeString | str:
        """Return the raw payload, or the start of a large one; for a task, what may be shown."""
        payload = letter.texts["payload"]
        if payload is not None and letter.channel.startswith(PREFIX):
            return show_call(payload)
        return show_text(payload)

    # --- actions ---

    def get_urls(self) -> Any:
        """Add the address that one letter's button sends to."""
        view = self.admin_site.admin_view(self.retry_view)
        name = f"{self.opts.app_label}_{self.opts.model_name}_retry"
        return [path("<path:object_id>/retry/", view, name=name), *super().get_urls()]

    def retry_view(self, request: HttpRequest, object_id: str) -> Any:
        """Retry one dead letter."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_act_permission(request):
            raise PermissionDenied

        def retry() -> HttpResponseRedirect:
            found = self.get_object(request, unquote(object_id))
            rows = DeadLetter.rows.using(alias).filter(pk=None if found is None else found.pk)
            self._retry(request, rows)
            return HttpResponseRedirect("../change/")

        alias = read_id(unquote(object_id))[0]
        return self.guard(request, alias, retry)

    @admin.action(description="Retry selected %(verbose_name_plural)s", permissions=["act"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Have them delivered again at once, with as many attempts as at first."""
        self._retry(request, queryset)

    def _retry(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        chosen = take(queryset)
        count = retry_letters(driver_of(queryset), [one.n for one in chosen])
        self.note(request, chosen, CHANGE, "Retried.")
        self._report(request, f"{count} are going to be retried now", count, len(chosen))

    @admin.action(description="Drop selected %(verbose_name_plural)s", permissions=["delete"])
    def drop(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Delete them, after asking."""
        if not request.POST.get("confirmed"):
            return self.ask(request, queryset, "Drop these dead letters?", action="drop")
        last = request.POST.get("last", "")
        if last.isdecimal():  # leave what has come since the question
            queryset = queryset.filter(n__lte=int(last))
        chosen = take(queryset)
        self.note(request, chosen, DELETION, "Dropped.")
        count = drop_letters(driver_of(queryset), [one.n for one in chosen])
        self._report(request, f"{count} dropped", count, len(chosen))
        return None

    def _report(self, request: HttpRequest, message: str, count: int, chosen: int) -> None:
        more = "; there may be more: repeat it" if chosen == COUNTED else ""
        level = messages.SUCCESS if count else messages.WARNING
        self.message_user(request, f"{message}{more}.", level)

    # --- the page that deletes one ---

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> Any:
        """Leave out the admin's own action, which would read and name each row."""
        since_django_6_1 = {} if action_location is None else {"action_location": action_location}
        found = super().get_actions(request, **since_django_6_1)
        found.pop("delete_selected", None)
        return found

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Return what is deleted with a letter: nothing else."""
        return [str(one) for one in objs], {self.opts.verbose_name: len(objs)}, set(), []

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """Write to the admin's log that a letter is deleted."""
        self.note(request, queryset, DELETION, "Dropped.")

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete a letter with the schema's function."""
        drop_letters(driver_of(DeadLetter.rows.using(obj._state.db)), [obj.pk])


def show_text(text: str | None) -> SafeString | str:
    """Return a text with its white space; only its beginning, if it is long."""
    if text is None:
        return "-"
    style = "white-space: pre-wrap; overflow-wrap: anywhere; margin: 0"
    cut = "Only the beginning is shown." if len(text) > SHOWN else ""
    return format_html('<pre style="{}">{}</pre><p>{}</p>', style, text[:SHOWN], cut)


def show_call(payload: str) -> SafeString | str:
    """Return what a message in an outbox calls, as `PGNOTIFIER["OUTBOX_REDACT"]` lets it show."""
    if len(payload) > SHOWN:
        return "It is too long to be shown: pgnotifier outbox show"
    shown = describe(payload, find_redact())
    return show_text(json.dumps(shown, indent=2, ensure_ascii=False, default=repr))


def find_redact() -> Redact:
    """Return how to hide arguments. If the setting is invalid, all are hidden."""
    try:
        return check_redact(conf.get_imported("OUTBOX_REDACT"))
    except (ImproperlyConfigured, PgNotifierError):
        return None
