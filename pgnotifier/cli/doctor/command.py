"""The subcommand `doctor`."""

import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import click

from pgnotifier.cli.exits import INTERRUPTED
from pgnotifier.cli.target import Target, target_options
from pgnotifier.cli.units import read_duration


class _Interruptible(click.Command):
    """A command that exits with 130 on Ctrl-C, also while it imports the user's modules."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.command(cls=_Interruptible)
@target_options
@click.option(
    "-c",
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="Check the spelling of this channel, too; may be given several times.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for each answer of a server, broker or worker.",
)
@click.option(
    "--old",
    callback=read_duration,
    default="5min",
    show_default=True,
    metavar="TIME",
    help="Report transactions that have been open for longer.",
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    target: Target, channels: Sequence[str], timeout: float, old: timedelta, as_json: bool
) -> None:
    """Check whether notifications can arrive and be worked on, and say what to do.

    Connects as the application does.  With --app, --module or --settings, it also checks where
    subscriptions go: the broker, the workers, their tasks and queues.

    It changes nothing, and shows no password.

    \b
    Exit codes:
    0    all is well; there may be warnings
    1    a check has failed
    2    there is no such app, module or setting, or an option is wrong
    130  Ctrl-C

    \b
    Examples:
    $ pgnotifier doctor --dsn postgresql://localhost/shop
    $ pgnotifier doctor -A shop --json
    """  # noqa: D301 - click's mark for a paragraph that it must not wrap
    from pgnotifier.cli.doctor.case import Case
    from pgnotifier.cli.doctor.examining import examine
    from pgnotifier.cli.doctor.showing import Report

    case = Case(target, tuple(channels), timeout, old.total_seconds())
    report = None if as_json else Report()
    found = []
    for finding in examine(case):
        found.append(finding)
        if report is not None:
            report.add(finding)
    is_well = all(one.level != "failed" for one in found)
    if report is not None:
        report.end()
    else:
        said = {"ok": is_well, "findings": [one.to_dict() for one in found]}
        click.echo(json.dumps(said, indent=2))
    sys.exit(0 if is_well else 1)
