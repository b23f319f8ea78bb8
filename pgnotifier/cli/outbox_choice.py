"""Choose outboxes and their entries, for the subcommands of `outbox`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click
import psycopg

from pgnotifier._log.outbox_queries import MOST, list_entries, outboxes, search_entries
from pgnotifier._log.outbox_values import OutboxEntry, OutboxState
from pgnotifier._runtime.log_records import count

_OPTIONS = (
    click.option(
        "-o",
        "--outbox",
        "name",
        metavar="NAME",
        help="Only this outbox: celery:default, the name after the colon, or the relay's id.",
    ),
    click.option("-q", "--queue", metavar="NAME", help="Only those for this queue."),
    click.option(
        "--as-routed",
        "routed",
        is_flag=True,
        help="Only those for which the relay chooses the queue, as SQL gave none.",
    ),
    click.option("-t", "--task", metavar="NAME", help="Only those of this task."),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which entries a command is about.

    Attributes:
        name: The outbox's name; None for all outboxes.
        queue: The queue; None for all.
        task: The name of the task; None for all.
        entries: Their numbers; empty for all.
        routed: Whether only those are meant for which the relay chooses the queue.
    """

    name: str | None
    queue: str | None
    task: str | None
    entries: tuple[int, ...] = ()
    routed: bool = False

    def check(self, *, everything: bool) -> None:
        """Check that something was chosen.

        Args:
            everything: Whether --all was given.

        Raises:
            click.UsageError: Nothing was chosen, or --all and something else.
        """
        is_narrow = bool(self.entries or self.queue or self.routed or self.task)
        if everything and is_narrow:
            raise click.UsageError("--all goes with --outbox only")
        if not (everything or is_narrow):
            raise click.UsageError("give entries, --task, --queue, --as-routed or --all")

    def find_outboxes(self, connection: psycopg.Connection[Any]) -> list[OutboxState]:
        """Return the outboxes.

        Raises:
            click.ClickException: There is none of that name.
        """
        known = outboxes(connection, counts=False)
        if self.name is None:
            return known
        chosen = [one for one in known if self.name in _names_of(one)]
        if not chosen:
            names = ", ".join(sorted({one.name for one in known})) or "none"
            raise click.ClickException(f"there is no outbox {self.name!r}; there are: {names}")
        return chosen

    def find(
        self,
        connection: psycopg.Connection[Any],
        one: OutboxState,
        *,
        failed: bool = False,
        limit: int = MOST,
        reads: bool = False,
    ) -> list[OutboxEntry]:
        """Return the entries in one outbox: see `list_entries`."""
        return list_entries(
            connection,
            one.sub,
            failed=failed,
            ids=self.entries or None,
            queue=self.queue,
            routed=self.routed,
            task=self.task,
            limit=limit,
            reads=reads,
        )

    def search(
        self, connection: psycopg.Connection[Any], one: OutboxState, *, failed: bool, limit: int
    ) -> tuple[list[OutboxEntry], bool]:
        """Return the entries in one outbox, and whether there may be more: see `search_entries`."""
        return search_entries(
            connection,
            one.sub,
            failed=failed,
            queue=self.queue,
            routed=self.routed,
            task=self.task,
            limit=limit,
        )

    def find_failed(self, connection: psycopg.Connection[Any]) -> list[OutboxEntry]:
        """Return the chosen entries that have failed, in all outboxes.

        Raises:
            click.ClickException: One of the numbers doesn't exist.
        """
        chosen = self.find_outboxes(connection)
        found = [one for each in chosen for one in self.find(connection, each, failed=True)]
        self.require(found)
        return found

    def require(self, found: Sequence[OutboxEntry]) -> None:
        """Check that all chosen numbers were found.

        Raises:
            click.ClickException: One wasn't.
        """
        missing = sorted({*self.entries} - {one.id for one in found})
        if missing:
            raise click.ClickException(
                f"nothing was done, as these aren't there: {', '.join(map(str, missing[:10]))}"
            )


def choice(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose entries, as the argument `chosen`."""

    @wraps(command)
    def chosen(*arguments: Any, **given: Any) -> None:
        names = ("name", "queue", "task", "entries", "routed")
        found = {name: given.pop(name) for name in names if name in given}
        if found["routed"] and found["queue"] is not None:
            raise click.UsageError("give --queue or --as-routed, not both")
        command(*arguments, chosen=Choice(**found), **given)

    wrapped: Callable[..., None] = chosen
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def confirm(found: int, *, is_sure: bool, is_more: bool = False) -> None:
    """Ask whether to drop a number of messages."""
    if not is_sure and found:
        shown = f"{found} messages or more" if is_more else count(found, "message")
        click.confirm(f"Drop {shown}?", abort=True)


def _names_of(one: OutboxState) -> tuple[str, ...]:
    return one.name, one.channel, one.subscription, one.name.partition(":")[2]
