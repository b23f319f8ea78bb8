"""The subcommands `positions` and `reclaim`: who is behind in the log, and which space it keeps."""

import json
from datetime import UTC, datetime

import click

from pgnotifier import durable
from pgnotifier._log import positions as log_positions
from pgnotifier._log.done import reclaim_done
from pgnotifier._log.reclaim import reclaim as give_back
from pgnotifier._log.sessions import find_session
from pgnotifier._runtime.log_records import count, duration
from pgnotifier.cli.durable import to_log
from pgnotifier.cli.printable import printable
from pgnotifier.cli.tables import format_table
from pgnotifier.cli.target import Target, target_options
from pgnotifier.cli.units import format_size
from pgnotifier.status import LogState, Position

POSITION_HEADINGS = {
    "name": "SUBSCRIPTION",
    "channel": "CHANNEL",
    "lag": "LAG",
    "seconds": "BEHIND",
    "rate": "RATE",
    "failed": "FAILED",
    "attempts": "ATTEMPTS",
    "dead": "DEAD",
    "reader": "READ BY",
    "kept": "KEEPS",
    "max_lag": "MAX LAG",
    "dropped": "DROPPED",
}
_COUNTED = 1000  # a lag above is an upper bound
_ROUNDS = 2  # the first one has new entries go elsewhere, so that the second can truncate


@click.group()
def positions() -> None:
    """Show how far durable subscriptions are, and forget them."""


@positions.command("list")
@target_options
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def list_positions(target: Target, as_json: bool) -> None:
    """List all durable subscriptions, the size of the log, and what holds its space back.

    LAG is how many entries a subscription has not got.  Over a thousand, it is an upper bound:
    entries of other channels count as well.  ATTEMPTS is how often the failed entry that was tried
    most often was tried.
    """
    with to_log(target) as connection:
        found = durable.positions(connection)
        state = durable.log_state(connection)
    if as_json:
        shown = {"positions": [one.to_dict() for one in found], "log": state.to_dict()}
        click.echo(json.dumps(shown, indent=2))
        return
    if found:
        click.echo(format_table(POSITION_HEADINGS, map(position_row, found)))
    else:
        click.echo("no durable subscriptions")
    click.echo()
    click.echo("\n".join(map(printable, describe_log(state))))


@positions.command()
@target_options
@click.argument("subscription", metavar="ID")
@click.option("-c", "--channel", required=True, metavar="NAME", help="The subscription's channel.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
def forget(target: Target, subscription: str, channel: str, yes: bool) -> None:
    """Delete a durable subscription: its position, and what has failed for it.

    If somebody still runs it, it begins again, from now on.

    Exit code: 1 if there is no such subscription.
    """
    if not yes:
        click.confirm(f"Delete the position of subscription {subscription!r}?", abort=True)
    with to_log(target) as connection:
        if not log_positions.forget(connection, subscription, channel):
            raise click.ClickException(
                f"there is no durable subscription {subscription!r} to channel {channel!r}"
            )
    click.echo(f"deleted subscription {subscription!r}")


@click.command()
@target_options
def reclaim(target: Target) -> None:
    """Give back the log's space that no subscription needs, and apply its limits.

    So is the space of ids of what was done once, when they are old enough.

    Whoever reads the log does so every few seconds.  Run this regularly, with cron for example,
    if it may be that nobody reads: `max_lag` and the quota hold then, too.
    """
    freed = blocked = freed_done = blocked_done = 0
    with to_log(target) as connection:
        for _ in range(_ROUNDS):
            more, blocked = give_back(connection)
            freed += more
            more, blocked_done, _ = reclaim_done(find_session(connection))
            freed_done += more
        state = durable.log_state(connection)
    blocked += blocked_done
    in_use = f", {blocked} in use" if blocked else ""
    given_back = count(freed + freed_done, "slot")
    click.echo(f"{given_back} given back{in_use}; the log has {format_size(state.size)}")


def position_row(one: Position) -> dict[str, str | None]:
    """Return the row of a durable subscription."""
    unread = "nobody"
    if one.unread_since is not None:
        unread += f" for {duration((datetime.now(UTC) - one.unread_since).total_seconds())}"
    lag = "?" if one.lag is None else str(one.lag)
    return {
        "name": one.name,
        "channel": one.channel,
        "lag": f"≤ {lag}" if one.lag is not None and one.lag > _COUNTED else lag,
        "seconds": duration(one.lag_seconds) if one.lag else None,
        "rate": None if one.rate is None else f"{one.rate:.1f}/s",
        "failed": str(one.failed),
        "attempts": str(one.attempts) if one.attempts else None,
        "dead": str(one.dead),
        "reader": unread if one.reader_pid is None else f"pid {one.reader_pid}",
        "kept": format_size(one.kept_bytes) if one.slots else None,
        "max_lag": None if one.max_lag is None else str(one.max_lag),
        "dropped": str(one.dropped) if one.dropped else None,
    }


def describe_log(state: LogState) -> list[str]:
    """Return the size of the log, and what holds its space back, in lines."""
    quota = f" of {format_size(state.quota)}" if state.quota is not None else ""
    full = ", full: nothing can be published" if state.is_full else ""
    lines = [f"log: {format_size(state.size)}{quota} in {count(len(state.slots), 'slot')}{full}"]
    if state.retention:
        lines.append(f"retention: {duration(state.retention.total_seconds())}")
    lines += [
        f"held back: {format_size(one.size)} by {one}"
        + (f", since {one.since.isoformat(' ', 'seconds')}" if one.since is not None else "")
        for one in state.holders
    ]
    return lines
