"""The subcommand `outbox`: list what waits or has failed in outboxes, send it again, or drop it."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import click
import psycopg

from pgnotifier._log import dead_letters
from pgnotifier._log.outbox_queries import SEARCHED, outboxes, set_aside
from pgnotifier._log.outbox_redaction import Redact, describe
from pgnotifier._log.outbox_values import OutboxEntry, OutboxState
from pgnotifier._runtime.log_records import duration
from pgnotifier.cli.durable import to_log
from pgnotifier.cli.outbox_choice import Choice, choice, confirm
from pgnotifier.cli.tables import format_table, format_values
from pgnotifier.cli.target import Target, target_options
from pgnotifier.errors import in_one_line

OUTBOX_HEADINGS = {
    "name": "OUTBOX",
    "subscription": "RELAY",
    "queue": "QUEUE",
    "waiting": "WAITING",
    "oldest": "OLDEST",
    "rate": "RATE",
    "failed": "FAILED",
    "dead": "DEAD",
    "reader": "RELAYED BY",
}
_OF_ENTRIES = {
    "state": "STATE",
    "id": "ENTRY",
    "task": "TASK",
    "task_id": "ID",
    "queue": "QUEUE",
    "enqueued_at": "ENQUEUED AT",
    "age": "AGE",
    "attempts": "ATTEMPTS",
    "error": "REASON",
}
_REASON = "set aside by `pgnotifier outbox drop`"
_SHOWN = 60  # characters of a reason in a table
_BATCH = 10_000
"""How many entries that wait are dropped in one transaction."""


@click.group(invoke_without_command=True)
@target_options
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def outbox(target: Target, as_json: bool) -> None:
    """Show outboxes: tasks that were enqueued in transactions, and wait for a relay.

    Without a subcommand: each outbox and its queues. OLDEST is how long ago the oldest entry was
    enqueued that waits, RATE how many entries the relay sends in a second, as it notes once a
    minute, FAILED how many are tried again, DEAD how many aren't. For tasks as routed, the relay
    chooses the queue.
    """
    with to_log(target) as connection:
        found = outboxes(connection)
    if as_json:
        click.echo(json.dumps([one.to_dict() for one in found], indent=2))
    elif found:
        rows = [row for one in found for row in outbox_rows(one)]
        click.echo(format_table(OUTBOX_HEADINGS, rows))
    else:
        click.echo("no outboxes")


@outbox.command("list")
@target_options
@choice
@click.option("-f", "--failed", is_flag=True, help="Only what has failed.")
@click.option("-n", "--limit", default=100, show_default=True, help="How many to show at most.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def list_outbox(target: Target, chosen: Choice, failed: bool, limit: int, as_json: bool) -> None:
    """List what has failed, and what waits, the oldest first.

    Arguments are neither shown nor read.
    """
    found: list[OutboxEntry] = []
    is_cut = False
    with to_log(target) as connection:
        for one in chosen.find_outboxes(connection):
            for is_failed in (True,) if failed else (True, False):
                if (left := limit - len(found)) > 0:
                    some, may_be_more = chosen.search(connection, one, failed=is_failed, limit=left)
                    found += some
                    is_cut |= may_be_more
    if as_json:
        click.echo(json.dumps([one.to_dict() for one in found], indent=2))
    elif found:
        click.echo(format_table(_OF_ENTRIES, map(_row, found)))
    elif not is_cut:
        click.echo("nothing has failed" if failed else "nothing has failed, and nothing waits")
    if is_cut:
        wanted = "those without a queue" if chosen.task is None else f"the task {chosen.task}"
        click.echo(
            f"there may be more: {max(limit, SEARCHED):,} entries of an outbox were searched for "
            f"{wanted}. Give --queue, or a higher --limit to search more",
            err=True,
        )


@outbox.command()
@target_options
@click.option("--arguments", is_flag=True, help="Show arguments and all headers.")
@click.option(
    "--redact",
    metavar="NAMES|MODULE:FUNCTION",
    envvar="PGNOTIFIER_REDACT",
    show_envvar=True,
    help="Show arguments, but hide the values of these, as email,phone, and positional ones.  Or "
    "show what a function of task, args and kwargs returns.",
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("entry", type=int)
def show(target: Target, arguments: bool, redact: str | None, as_json: bool, entry: int) -> None:
    """Show one entry with its message, by its number.

    The values of arguments are hidden, unless --arguments or --redact is given.
    """
    hides: Redact = () if arguments else _read_redact(redact)
    chosen = Choice(None, None, None, (entry,))
    with to_log(target) as connection:
        found = [
            one
            for each in chosen.find_outboxes(connection)
            for is_failed in (True, False)
            for one in chosen.find(connection, each, failed=is_failed, reads=True)
        ]
    if not found:
        raise click.ClickException(f"no entry {entry} waits or has failed")
    for one in found:
        shown = {**one.to_dict(), **describe(one.payload or "", hides)}
        if as_json:
            click.echo(json.dumps(shown, indent=2, default=repr))
        else:
            click.echo(format_values(shown))


@outbox.command()
@target_options
@choice
@click.option("-a", "--all", "everything", is_flag=True, help="All that has failed.")
@click.argument("entries", type=int, nargs=-1, metavar="[ENTRY]...")
def retry(target: Target, chosen: Choice, everything: bool) -> None:
    """Have what has failed sent again: by ENTRY, of a task, for a queue, or all."""
    chosen.check(everything=everything)
    with to_log(target) as connection:
        numbers = _numbers(chosen.find_failed(connection))
        click.echo(f"{dead_letters.retry_letters(connection, numbers)} sent again")


@outbox.command()
@target_options
@choice
@click.option("-a", "--all", "everything", is_flag=True, help="All that has failed.")
@click.option("-w", "--waiting", is_flag=True, help="What waits, instead of what has failed.")
@click.option("--keep", is_flag=True, help="Keep what waits as dead letters, to send it later.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@click.argument("entries", type=int, nargs=-1, metavar="[ENTRY]...")
def drop(
    target: Target,
    chosen: Choice,
    everything: bool,
    waiting: bool,
    keep: bool,
    yes: bool,
) -> None:
    """Drop what has failed, or what waits: by ENTRY, of a task, for a queue, or all.

    With --waiting, what waits is taken out of the way of the relay.  With --keep, it becomes dead
    letters that `retry` sends; else it is deleted.  What the relay has read already, a few thousand
    entries while the broker is down, it still sends: to be sure, stop it first.
    """
    if everything and waiting:
        raise click.UsageError("--all is for what has failed: with --waiting, name what to drop")
    if keep and not waiting:
        raise click.UsageError("--keep needs --waiting: what has failed is kept anyway")
    chosen.check(everything=everything)
    with to_log(target) as connection:
        if waiting:
            _drop_waiting(connection, chosen, keep=keep, is_sure=yes)
            return
        numbers = _numbers(chosen.find_failed(connection))
        confirm(len(numbers), is_sure=yes)
        click.echo(f"{dead_letters.drop_letters(connection, numbers)} dropped")


def _drop_waiting(
    connection: psycopg.Connection[Any], chosen: Choice, *, keep: bool, is_sure: bool
) -> None:
    known = chosen.find_outboxes(connection)
    first = {one: chosen.find(connection, one, limit=_BATCH) for one in known}
    chosen.require([entry for some in first.values() for entry in some])
    is_more = any(len(some) == _BATCH for some in first.values())
    confirm(sum(map(len, first.values())), is_sure=is_sure, is_more=is_more)
    dropped = 0
    for one, some in first.items():
        reading, batch = False, some
        while batch:
            numbers = [entry.id for entry in batch]
            with connection.transaction():
                made, is_read = set_aside(connection, one.sub, numbers, _REASON)
                if not keep:
                    dead_letters.drop_letters(connection, made)
            dropped += len(made)
            reading |= is_read
            batch = chosen.find(connection, one, limit=_BATCH) if len(batch) == _BATCH else []
        if reading:
            click.echo(
                f"{one.subscription} was reading: it still sends what it had taken already",
                err=True,
            )
    click.echo(f"{dropped} kept as dead letters" if keep else f"{dropped} dropped")


def _numbers(found: list[OutboxEntry]) -> list[int]:
    return [one.n for one in found if one.n is not None]


def _read_redact(text: str | None) -> Redact:
    """Return the value of an option: names, or a function that is imported."""
    if text is None:
        return None
    module, found, function = text.partition(":")
    if not found:
        return [one.strip() for one in text.split(",") if one.strip()] or None
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        value: Any = importlib.import_module(module)
        for part in function.split("."):
            value = getattr(value, part)
    except Exception as exc:  # noqa: BLE001 - modules of users may raise anything
        why = in_one_line(f"{type(exc).__name__}: {exc}")
        raise click.UsageError(f"--redact {text}: {why}") from None
    if not callable(value):
        raise click.UsageError(f"--redact {text} isn't a function")
    return value  # type: ignore[no-any-return]


def outbox_rows(one: OutboxState) -> list[dict[str, str | None]]:
    """Return a row for an outbox, and one for each of its queues."""
    unread = "nobody"
    if one.unread_since is not None:
        unread += f" since {one.unread_since.isoformat(' ', 'seconds')}"
    whole: dict[str, str | None] = {
        "name": one.name,
        "subscription": one.subscription,
        "queue": None,
        "waiting": str(one.waiting) if one.is_exact else f"≥ {one.waiting}",
        "oldest": duration(one.oldest_seconds) if one.waiting else None,
        "rate": _rate(one.rate),
        "failed": str(one.failed),
        "dead": str(one.dead),
        "reader": unread if one.reader_pid is None else f"pid {one.reader_pid}",
    }
    empty = dict.fromkeys(OUTBOX_HEADINGS)
    return [
        whole,
        *(
            {
                **empty,
                "queue": _queue(each.queue),
                "waiting": str(each.waiting) if one.is_exact else f"≥ {each.waiting}",
                "oldest": duration(each.oldest_seconds) if each.waiting else None,
                "rate": _rate(each.rate),
                "failed": str(each.failed),
                "dead": str(each.dead),
            }
            for each in one.queues
        ),
    ]


def _rate(found: float | None) -> str | None:
    return None if found is None else f"{found:.1f}/s"


def _queue(name: str | None) -> str:
    return "as routed" if name is None else name


def _row(one: OutboxEntry) -> dict[str, str | None]:
    error = " ".join((one.error or "").split())
    return {
        "state": one.state,
        "id": str(one.id),
        "task": one.task,
        "task_id": one.task_id,
        "queue": _queue(one.queue),
        "enqueued_at": one.enqueued_at.isoformat(" ", "seconds"),
        "age": duration(one.age),
        "attempts": None if one.attempts is None else str(one.attempts),
        "error": error if len(error) <= _SHOWN else f"{error[: _SHOWN - 1]}…",
    }
