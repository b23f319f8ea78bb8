"""The subcommand `status`: what all listeners of a database do."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from typing import NoReturn

import click

from pgnotifier._inquiry.asking import TIMEOUT, Inquirer
from pgnotifier.cli.exits import INTERRUPTED
from pgnotifier.cli.status.drawing import draw
from pgnotifier.cli.status.picture import LogReader, Picture, take_picture
from pgnotifier.cli.target import Target, target_options
from pgnotifier.errors import ConnectionFailedError, PgNotifierError

BETWEEN = 1.0
"""Seconds between the two surveys that rates are measured by."""
WATCH = 2.0
"""Seconds between two pictures, unless they are given with --watch."""
ROWS = 20
"""How many channels, and how many subscriptions, are shown without --all."""


@click.command()
@target_options
@click.option(
    "-c",
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="Show this channel only; may be given several times.",
)
@click.option(
    "-a", "--all", "everything", is_flag=True, help=f"Show everything, not the first {ROWS} only."
)
@click.option(
    "-w",
    "--watch",
    type=click.FloatRange(min=0.25),
    is_flag=False,
    flag_value=WATCH,
    metavar="[SECONDS]",
    help=f"Show it again every so many seconds, until Ctrl-C.  Default: {WATCH:g}.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a listener that doesn't answer.",
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON; with --watch, in lines.")
def status(
    target: Target,
    channels: tuple[str, ...],
    everything: bool,
    watch: float | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Show all listeners of a database: what they listen to, how fast, and what is wrong.

    They answer on a private channel.  It takes a second or two: rates are measured between two
    answers.  If the database has the durable log, the positions of durable subscriptions and the
    outboxes are shown as well.

    \b
    Exit codes:
    0    a listener listens, and all is well
    1    nobody listens; or a listener doesn't answer, is disconnected, doesn't read, or can't
         reach its queue; or the database can't be reached.  What is wrong is printed
    2    the command line is wrong
    130  Ctrl-C

    \b
    Examples:
    $ pgnotifier status --dsn postgresql://localhost/shop
    $ pgnotifier status -A shop --watch 5
    $ pgnotifier status --json | jq '.listeners[].rate'
    """  # noqa: D301 - click's mark for a paragraph that it must not wrap
    shown = partial(_show, channels=channels, everything=everything, as_json=as_json)
    try:
        with Inquirer(target.parameters) as inquirer, LogReader(target.parameters) as log:
            take = partial(take_picture, inquirer, log, timeout)
            if watch is not None:
                _watch(take, shown, watch, as_json=as_json)
            begun = monotonic()
            if take().survey.reports:
                sleep(max(0.0, BETWEEN - (monotonic() - begun)))
            picture = take()
            shown(picture)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except PgNotifierError as exc:
        raise click.ClickException(str(exc)) from None
    sys.exit(1 if picture.problems else 0)


def _watch(
    take: Callable[[], Picture],
    shown: Callable[[Picture], None],
    seconds: float,
    *,
    as_json: bool,
) -> NoReturn:
    """Show a picture every `seconds`. A lost connection is made again."""
    clears = sys.stdout.isatty() and not as_json
    while True:
        begun = monotonic()
        try:
            picture = take()
        except ConnectionFailedError as exc:
            click.echo(f"Error: {exc}", err=True)
        else:
            if clears:
                click.clear()
            shown(picture)
            if not (clears or as_json):
                click.echo()
        sys.stdout.flush()
        sleep(max(0.0, seconds - (monotonic() - begun)))


def _show(picture: Picture, *, channels: tuple[str, ...], everything: bool, as_json: bool) -> None:
    chosen = picture.choose(channels) if channels else picture
    if as_json:
        click.echo(json.dumps(chosen.to_dict()))
        return
    colors = "NO_COLOR" not in os.environ and sys.stdout.isatty()
    click.echo(draw(chosen, None if everything else ROWS), color=colors)
