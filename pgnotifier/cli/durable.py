"""The subcommands for durable subscriptions: `install`, `uninstall`, `dead` and `replay`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import click
import psycopg

from pgnotifier import durable
from pgnotifier._log import dead_letters, positions
from pgnotifier._log.dead_letters import DeadLetter
from pgnotifier._log.outbox_queries import PREFIX
from pgnotifier._log.outbox_redaction import hide_arguments
from pgnotifier.cli.tables import format_table, format_values
from pgnotifier.cli.target import Target, target_options
from pgnotifier.cli.units import read_duration, read_size
from pgnotifier.errors import PgNotifierError

_HEADINGS = {
    "n": "NUMBER",
    "name": "SUBSCRIPTION",
    "channel": "CHANNEL",
    "id": "ENTRY",
    "attempts": "ATTEMPTS",
    "failed_at": "FAILED AT",
    "error": "ERROR",
}
_SHOWN = 60  # characters of an error in a table
_Decorator = Callable[[Callable[..., None]], Callable[..., None]]

_subscription_option: _Decorator = click.option(
    "-s", "--subscription", metavar="ID", help="Only those of this subscription."
)
_channel_option: _Decorator = click.option(
    "-c", "--channel", metavar="NAME", help="Only those of this channel."
)


@contextmanager
def to_log(target: Target) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection to a database that has the log, as `Target.connected` does."""
    with target.connected() as connection:
        durable.check(connection)
        yield connection


@click.command()
@target_options
@click.option("--sql", "prints", is_flag=True, help="Print the statements, and execute none.")
@click.option(
    "--from",
    "since",
    type=int,
    metavar="N",
    help="With --sql: print what upgrades version N, and no more.",
)
@click.option(
    "--to",
    "version",
    type=click.IntRange(1, durable.VERSION),
    metavar="N",
    help=f"The version to install. Default: {durable.VERSION}, the newest.",
)
@click.option("--check", "checks", is_flag=True, help="Only check whether it is installed.")
@click.option(
    "--grant-publisher",
    "publishers",
    multiple=True,
    metavar="ROLE",
    help="A role that may publish; may be given several times.",
)
@click.option(
    "--grant-listener",
    "listeners",
    multiple=True,
    metavar="ROLE",
    help="A role that may read and move durable subscriptions; may be given several times.",
)
@click.option(
    "--grant-enqueuer",
    "enqueuers",
    multiple=True,
    metavar="ROLE",
    help="A role that may publish, and enqueue tasks and jobs; may be given several times.",
)
@click.option(
    "--grant-worker",
    "workers",
    multiple=True,
    metavar="ROLE",
    help="A role that may note what it has done once; may be given several times.",
)
@click.option(
    "--keep-done",
    callback=read_duration,
    metavar="TIME",
    help="How long it is known at least what has been done once: 7d at first.",
)
@click.option(
    "--retention",
    callback=read_duration,
    metavar="TIME",
    help="How long entries are kept at least, so that they can be replayed: 12h, 7d. 0: until each "
    "subscription has them, as at first.",
)
@click.option(
    "--quota",
    callback=read_size,
    metavar="SIZE",
    help="The size of the log from which on nothing can be published: 500MB, 20GB. 0: any size, as "
    "at first.",
)
def install(
    target: Target,
    prints: bool,
    since: int | None,
    version: int | None,
    checks: bool,
    publishers: tuple[str, ...],
    listeners: tuple[str, ...],
    enqueuers: tuple[str, ...],
    workers: tuple[str, ...],
    keep_done: timedelta | None,
    retention: timedelta | None,
    quota: int | None,
) -> None:
    """Install the durable log, or upgrade it.

    Creates the schema `pgnotifier` in the database.  The role needs the right to create schemas
    there, and owns it; no superuser and no extension is needed.  Several processes may run this at
    the same time.

    Migration tools can execute what --sql prints, in one transaction.  With --from and --to, a
    migration contains exactly the difference of two versions.

    Exit code: 0 if the log is installed, 1 if it isn't, or is too old.
    """
    parts: dict[durable.Part, tuple[str, ...]] = {
        "publisher": publishers,
        "listener": listeners,
        "enqueuer": enqueuers,
        "worker": workers,
    }
    grants: list[tuple[str, durable.Part]] = [
        (role, part) for part, roles in parts.items() for role in roles
    ]
    if keep_done is not None and prints:
        raise click.UsageError("with --sql, use SELECT pgnotifier.keep_done('7 days')")
    if since is not None and not prints:
        raise click.UsageError("--from needs --sql: without it, the log knows its version")
    wanted = durable.VERSION if version is None else version
    if prints:
        try:
            script = durable.install_script(since or 0, wanted, retention=retention, quota=quota)
            granting = [durable.grant_script(role, part, wanted) for role, part in grants]
        except PgNotifierError as exc:
            raise click.UsageError(str(exc)) from None
        for one in (script, *granting):
            click.echo(one, nl=False)
        return
    with target.connected() as connection:
        if checks:
            click.echo(f"the durable log has version {durable.check(connection)}")
            return
        changed = durable.install(connection, wanted, retention=retention, quota=quota)
        if keep_done is not None:
            changed |= durable.keep_done(connection, keep_done)
        for role, part in grants:
            durable.grant(connection, role, part)
    click.echo("installed the durable log" if changed else "the durable log is up to date")
    for role, part in grants:
        click.echo(f"role {role!r} has the rights of {'an' if part == 'enqueuer' else 'a'} {part}")


@click.command()
@target_options
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
def uninstall(target: Target, yes: bool) -> None:
    """Drop the durable log, with all that it holds.

    What was not delivered yet is lost, and so are positions and dead letters.
    """
    if not yes:
        click.confirm("Drop the schema pgnotifier, with all entries and positions?", abort=True)
    with target.connected() as connection:
        dropped = durable.uninstall(connection)
    click.echo("dropped the durable log" if dropped else "no durable log was installed")


@click.group()
def dead() -> None:
    """Show, retry and drop what could not be delivered."""


@dead.command("list")
@target_options
@_subscription_option
@_channel_option
@click.option("-a", "--all", "everything", is_flag=True, help="Also those still being retried.")
@click.option("-n", "--limit", default=1000, show_default=True, help="How many to show at most.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON, with payloads.")
def list_dead(
    target: Target,
    subscription: str | None,
    channel: str | None,
    everything: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List dead letters, the oldest first."""
    with to_log(target) as connection:
        found = dead_letters.find_letters(
            connection, name=subscription, channel=channel, everything=everything, limit=limit
        )
    if as_json:
        click.echo(json.dumps([*map(_show, found)], indent=2, default=str))
    elif found:
        click.echo(format_table(_HEADINGS, map(_row, found)))
    else:
        click.echo("no failed entries" if everything else "no dead letters")


@dead.command()
@target_options
@click.argument("number", type=int)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def show(target: Target, number: int, as_json: bool) -> None:
    """Show one of them with its payload and its traceback."""
    with to_log(target) as connection:
        found = dead_letters.find_letters(connection, n=number, everything=True)
    if not found:
        raise click.ClickException(f"there is no failed entry number {number}")
    shown = _show(found[0])
    click.echo(json.dumps(shown, indent=2, default=str) if as_json else format_values(shown))


@dead.command()
@target_options
@_subscription_option
@_channel_option
@click.argument("numbers", type=int, nargs=-1)
def retry(
    target: Target, subscription: str | None, channel: str | None, numbers: tuple[int, ...]
) -> None:
    """Have dead letters delivered again, by their NUMBERS or all those of a subscription."""
    with to_log(target) as connection:
        chosen = _choose(connection, subscription, channel, numbers)
        click.echo(f"{dead_letters.retry_letters(connection, chosen)} delivered again")


@dead.command()
@target_options
@_subscription_option
@_channel_option
@click.argument("numbers", type=int, nargs=-1)
def drop(
    target: Target, subscription: str | None, channel: str | None, numbers: tuple[int, ...]
) -> None:
    """Delete dead letters, by their NUMBERS or all those of a subscription."""
    with to_log(target) as connection:
        chosen = _choose(connection, subscription, channel, numbers)
        click.echo(f"{dead_letters.drop_letters(connection, chosen)} deleted")


@click.command()
@target_options
@click.argument("subscription", metavar="ID")
@click.option("-c", "--channel", required=True, metavar="NAME", help="The subscription's channel.")
@click.option("--since", metavar="TIME", help="All that was published since, as 2026-01-31T12:00Z.")
@click.option("--from-id", type=int, metavar="N", help="All entries from this one on.")
@click.option("--oldest", is_flag=True, help="All entries that are still there.")
@click.option("--now", is_flag=True, help="Only what is published from now on: skip the rest.")
def replay(
    target: Target,
    subscription: str,
    channel: str,
    since: str | None,
    from_id: int | None,
    oldest: bool,
    now: bool,
) -> None:
    """Move a durable subscription, so that it gets entries again.

    Exit code: 1 if there is no such subscription.
    """
    given: list[positions.Start] = []
    if since is not None:
        given.append(_read_time(since))
    if from_id is not None:
        given.append(from_id)
    if oldest:
        given.append("oldest")
    if now:
        given.append("now")
    if len(given) != 1:
        raise click.UsageError("give one of --since, --from-id, --oldest and --now")
    with to_log(target) as connection:
        if not positions.seek(connection, subscription, channel, given[0]):
            raise click.ClickException(
                f"there is no durable subscription {subscription!r} to channel {channel!r}"
            )
    click.echo(f"moved subscription {subscription!r}")


def _choose(
    connection: psycopg.Connection[Any],
    name: str | None,
    channel: str | None,
    numbers: tuple[int, ...],
) -> list[int]:
    """Return the numbers that were given, or those of the dead letters that options describe."""
    if bool(numbers) == bool(name or channel):
        raise click.UsageError("give numbers, or --subscription, --channel or both")
    if numbers:
        return [*numbers]
    found = dead_letters.find_letters(connection, name=name, channel=channel, limit=sys.maxsize)
    return [one.n for one in found]


def _show(letter: DeadLetter) -> dict[str, Any]:
    """Return a whole dead letter; for a task in an outbox, without the values of arguments."""
    shown = asdict(letter)
    if letter.channel.startswith(PREFIX):
        shown["payload"] = hide_arguments(letter.payload)
    return shown


def _row(letter: DeadLetter) -> dict[str, str | None]:
    shown = asdict(letter) | {"failed_at": letter.failed_at.isoformat(" ", "seconds")}
    error = " ".join((letter.error or "").split())
    shown["error"] = error if len(error) <= _SHOWN else f"{error[: _SHOWN - 1]}…"
    return {name: str(shown[name]) for name in _HEADINGS}


def _read_time(text: str) -> datetime:
    """Return a time; without a time zone, it is local time."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise click.UsageError(f"--since needs a time as 2026-01-31T12:00Z, not {text!r}") from None
