"""The subcommand `top`."""

import logging
import sys

import click

from pgnotifier.cli.exits import explain_missing
from pgnotifier.cli.target import Target, target_options
from pgnotifier.cli.top.checking import check_terminal
from pgnotifier.cli.top.queues import QueueWatcher, find_sources
from pgnotifier.cli.top.watching import Watcher

LONGEST_INTERVAL = 60.0
"""Seconds between two surveys at most. Rates are averages over that time, so it mustn't be long."""


@click.command()
@target_options
@click.option(
    "-n",
    "--interval",
    type=click.FloatRange(0.25, LONGEST_INTERVAL),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to ask the listeners.",
)
def top(target: Target, interval: float) -> None:
    """Show all listeners of a database, live, on the whole screen.

    Shows rates, delays, buffers and gaps of each listener, its channels and subscriptions, and how
    far durable subscriptions are behind.  With --app, --module or --settings, also how long the
    queues in the broker are.

    \b
    Keys:
    1-5, Tab    listeners, channels, subscriptions, queues, durable subscriptions
    /, Escape   show only what contains a text; show all
    s, r        sort by the next column; the other way round
    m           mute or unmute a channel or a subscription
    Space       pause
    q           quit

    Muting needs a listener with remote_commands=True, and a role that may end its session.

    \b
    Exit codes:
    0    ended by q
    2    the options are wrong, this isn't a terminal, or textual isn't installed
    129  the terminal was closed
    130  ended by Ctrl-C
    143  ended by SIGTERM
    """  # noqa: D301 - click's mark for a paragraph that it must not wrap
    check_terminal()
    try:
        from pgnotifier.cli.top.app import TopApp
    except ModuleNotFoundError as exc:
        explain_missing(exc, "top")
    watcher = Watcher(target.parameters, interval)
    queues = QueueWatcher(find_sources(target), interval)
    logging.disable()  # handlers that an app has set up would write on the screen
    app = TopApp(repr(target.parameters), watcher, queues)
    code = app.run()
    logging.disable(logging.NOTSET)
    sys.exit(app.return_code if code is None else code)
