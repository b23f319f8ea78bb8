"""Choose entries of an outbox in the admin: by a filter, by page, and by ticking them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.http import HttpRequest, QueryDict

from pgnotifier._log.outbox_queries import list_entries, search_entries
from pgnotifier._log.outbox_values import EntryState, OutboxEntry
from pgnotifier.contrib.django.durable.log_admin import COUNTED

SHOWN = 200
"""How many entries that wait, and how many that have failed, a page shows."""
FAILED, WAITING = "failed", "waiting"
"""The two lists of a page."""
MOST_PAGES = 500
_DIGITS = 19
"""Each number with fewer digits is a bigint."""
_ACTIONS = {"retry": (FAILED,), "keep": (WAITING,), "drop": (FAILED, WAITING)}
"""Which of the lists an action is about."""
_STATES: dict[str, str] = {
    "": "any",
    "waiting": "waiting",
    "failed": "being retried",
    "dead": "dead",
}


@dataclass(frozen=True, slots=True)
class OutboxPage:
    """A page of one of the two lists.

    Attributes:
        kind: Which list it is of.
        entries: What it shows.
        number: Which page it is, from 1.
        is_cut: Whether there may be more, as not all entries were searched.
        previous: The query of the previous page; None if there is none.
        next: The query of the next page; None if there is none.
    """

    kind: str
    entries: Sequence[OutboxEntry]
    number: int
    is_cut: bool
    previous: str | None
    next: str | None

    @property
    def shown(self) -> str:
        """The numbers of the entries, for the box that selects them all."""
        return ",".join(str(one.id) for one in self.entries)


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries a page is about, as its address says.

    Attributes:
        query: The query of the address.
        queue: Only those for this queue.
        routed: Only those for which the relay chooses the queue.
        task: Only those of this task.
        state: Only those in this state.
    """

    query: QueryDict
    queue: str | None
    routed: bool
    task: str | None
    state: EntryState | None

    @classmethod
    def of(cls, request: HttpRequest) -> "EntryFilter":
        """Return the filter of a page."""
        query = request.GET
        state = query.get("state") or None
        return cls(
            query=query,
            queue=query.get("queue") or None,
            routed=bool(query.get("routed")),
            task=query.get("task") or None,
            state=cast("EntryState", state) if state in _STATES else None,
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of the two lists may have entries."""
        if self.state is None:
            return FAILED, WAITING
        return (WAITING,) if self.state == "waiting" else (FAILED,)

    @property
    def is_narrow(self) -> bool:
        """Whether it names what waits: otherwise, only what has failed may be chosen as a whole."""
        return self.routed or any((self.queue, self.task, self.state))

    @property
    def states(self) -> list[tuple[str, str, bool]]:
        """The choices of states: value, title, and whether it is the one."""
        return [(value, title, value == (self.state or "")) for value, title in _STATES.items()]

    def show(self, connection: Any, sub: int, kind: str) -> OutboxPage:
        """Return the page of a list that the address asks for."""
        name = f"{kind}_page"
        number = min(max(1, _number(self.query.get(name, "")) or 1), MOST_PAGES)
        # Entries are few, and the function of the log knows no place to begin at.
        found, is_cut = search_entries(
            connection, sub, failed=kind == FAILED, limit=number * SHOWN + 1, **self._chosen
        )
        is_last = len(found) <= number * SHOWN or number == MOST_PAGES
        return OutboxPage(
            kind=kind,
            entries=found[(number - 1) * SHOWN : number * SHOWN],
            number=number,
            is_cut=is_cut,
            previous=self._address(name, number - 1) if number > 1 else None,
            next=None if is_last else self._address(name, number + 1),
        )

    def find(self, connection: Any, sub: int, kind: str) -> list[OutboxEntry]:
        """Return all entries of a list, up to the most that an action takes at a time."""
        if kind not in self.kinds or (kind == WAITING and not self.is_narrow):
            return []
        return list_entries(connection, sub, failed=kind == FAILED, limit=COUNTED, **self._chosen)

    def _address(self, name: str, number: int) -> str:
        query = self.query.copy()
        query[name] = str(number)
        return query.urlencode()

    @property
    def _chosen(self) -> Any:
        names = ("queue", "routed", "task", "state")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What an action is about.

    Attributes:
        action: The action: retry, drop or keep.
        failed: Entries that have failed.
        waiting: Entries that wait.
        ticked: Which were ticked, each as its list and its number.
        is_all: Whether all are meant that the filter finds.
    """

    action: str
    failed: Sequence[OutboxEntry]
    waiting: Sequence[OutboxEntry]
    ticked: Sequence[str]
    is_all: bool

    @property
    def entries(self) -> list[OutboxEntry]:
        """All of them."""
        return [*self.failed, *self.waiting]

    @property
    def numbers(self) -> list[int]:
        """The numbers of what has failed, among what has failed."""
        return [one.n for one in self.failed if one.n is not None]

    @property
    def last(self) -> int:
        """The highest number of an entry."""
        return max((one.id for one in self.entries), default=0)

    @property
    def is_bounded(self) -> bool:
        """Whether there may be more than an action takes at a time."""
        return self.is_all and COUNTED in (len(self.failed), len(self.waiting))


def find_chosen(request: HttpRequest, connection: Any, sub: int, action: str) -> Chosen:
    """Return what the answer to a page's form is about."""
    post = request.POST
    is_all = post.get("select_across") == "1"
    given: list[str] = [*map(str, post.getlist(ACTION_CHECKBOX_NAME)), *_whole_pages(post)]
    ticked = [*dict.fromkeys(given)]
    last = _number(post.get("last", ""))
    found: dict[str, list[OutboxEntry]] = {FAILED: [], WAITING: []}
    for kind in _ACTIONS[action]:
        if is_all:
            some = EntryFilter.of(request).find(connection, sub, kind)
            # Leave what has come since the question.
            found[kind] = [one for one in some if last is None or one.id <= last]
        else:
            found[kind] = _find_ticked(connection, sub, kind, ticked)
    return Chosen(action, found[FAILED], found[WAITING], ticked, is_all)


def _whole_pages(post: QueryDict) -> list[str]:
    """Return what the boxes stand for that select a page."""
    chosen = (str(text).partition(":") for text in post.getlist("whole_page"))
    return [f"{kind}:{number}" for kind, _, numbers in chosen for number in numbers.split(",")]


def _find_ticked(connection: Any, sub: int, kind: str, ticked: Sequence[str]) -> list[OutboxEntry]:
    found = (text.partition(":") for text in ticked)
    numbers = (_number(text) for given, _, text in found if given == kind)
    ids = [number for number in numbers if number is not None]
    if not ids:
        return []
    return list_entries(connection, sub, failed=kind == FAILED, ids=ids, limit=2 * len(ids))


def _number(text: str) -> int | None:
    """Return the number in a text that anybody may have written; None if it can't be an entry's."""
    return int(text) if text.isdecimal() and len(text) < _DIGITS else None
