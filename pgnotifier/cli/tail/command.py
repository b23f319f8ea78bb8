"""The subcommand `tail`: notifications, or entries of the durable log, as they come."""

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from time import monotonic

import click
import psycopg

from pgnotifier._log.outbox_queries import PREFIX
from pgnotifier._registry.checks import check_channels, check_unreserved
from pgnotifier.cli.exits import CLOSED, INTERRUPTED
from pgnotifier.cli.finding import find_channels
from pgnotifier.cli.printable import printable
from pgnotifier.cli.tail import following
from pgnotifier.cli.tail.feeds import Feed, LogFeed, NotifierFeed
from pgnotifier.cli.tail.following import Viewer
from pgnotifier.cli.tail.inbox import Inbox
from pgnotifier.cli.tail.output import Output, OutputClosedError
from pgnotifier.cli.tail.suspension import Suspension
from pgnotifier.cli.target import Target, target_options
from pgnotifier.cli.units import read_duration
from pgnotifier.errors import PgNotifierError, in_one_line

Start = datetime | timedelta | int | str
_DURATION = re.compile(r"[0-9.]+ ?(s|min|h|d)", re.IGNORECASE)


def read_start(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> Start | None:
    """Return where to begin: `oldest`, how long ago, a time, or the number of an entry."""
    if text is None or text == "oldest":
        return text
    if text.isascii() and text.isdecimal():
        return min(int(text), 2**63 - 1)
    if _DURATION.fullmatch(text.strip()):
        return read_duration(context, parameter, text)
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is none of these: 'oldest', how long ago (1h, 30min), a time as "
            "2026-01-31T12:00Z, or the number of an entry"
        ) from None


@click.command()
@click.argument("channels", metavar="[CHANNEL]...", nargs=-1)
@target_options
@click.option("-j", "--json", "as_json", is_flag=True, help="Print a JSON object for each line.")
@click.option("--raw", is_flag=True, help="Print payloads as they came, without reading them.")
@click.option(
    "-n",
    "--count",
    "most",
    type=click.IntRange(min=1),
    metavar="N",
    help="End after so many notifications.",
)
@click.option(
    "--for", "span", callback=read_duration, metavar="TIME", help="End after 10s, 5min, 1h …"
)
@click.option(
    "--durable",
    is_flag=True,
    help="Read the durable log, from now on: what is published, and not what is notified.",
)
@click.option(
    "--since",
    "start",
    callback=read_start,
    metavar="PLACE",
    help="Read the durable log from there on: 'oldest', how long ago (1h), a time "
    "(2026-01-31T12:00Z; local without a zone), or the number of an entry.",
)
def tail(
    channels: tuple[str, ...],
    target: Target,
    as_json: bool,
    raw: bool,
    most: int | None,
    span: timedelta | None,
    durable: bool,
    start: Start | None,
) -> None:
    """Show notifications as they come.

    Without CHANNEL, these are all channels of the app, module or project that is named.

    In a terminal, payloads are shown in colours and on several lines, the last line has the rate,
    and what comes faster than a terminal can show is counted and left out.  In a pipe, each
    notification is one line, and the figures go to standard error at the end.  Either way, lines
    with `--` say where something is missing: while the connection was lost, or because the output
    was too slow.  Senders are never held up.

    With --durable or --since, entries of the durable log are read, with the rights of a listener
    (pgnotifier install --grant-listener ROLE).  Nothing is written: no position is made or moved.

    \b
    Exit codes:
    0    ended by --count or --for
    1    the database can't be read, or --for was over before --count was reached
    2    the options or the channels are wrong
    130  ended by Ctrl-C
    141  whoever read the output has ended, as with `| head`

    \b
    Examples:
    $ pgnotifier tail orders invoices
    $ pgnotifier tail -A shop --json | jq .payload
    $ pgnotifier tail orders --since 1h --for 5s
    """  # noqa: D301 - click's mark for a paragraph that it must not wrap
    is_durable = durable or start is not None
    names = _choose(channels, target, is_durable=is_durable)
    inbox, output = Inbox(), Output(sys.stdout)
    viewer = Viewer(names, output, as_json=as_json, raw=raw, durable=is_durable)
    with _warnings_shown():
        feed: Feed
        if is_durable:
            feed = LogFeed(target.parameters, names, inbox, "now" if start is None else start)
        else:
            feed = NotifierFeed(target.parameters, names, inbox)
        code = _run(feed, inbox, viewer, most, span)
    sys.exit(code)


def _run(feed: Feed, inbox: Inbox, viewer: Viewer, most: int | None, span: timedelta | None) -> int:
    try:
        feed.start()
        viewer.begin()
        until = float("inf") if span is None else monotonic() + span.total_seconds()
        limit = float("inf") if most is None else most
        with Suspension(feed.pause, feed.resume) as suspension:
            is_full = following.follow(inbox, viewer, limit, until, suspension)
        code = 0 if is_full or most is None else 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    except OutputClosedError:
        return CLOSED
    except (PgNotifierError, psycopg.Error) as exc:
        raise click.ClickException(printable(in_one_line(exc))) from None
    finally:
        inbox.close()
        feed.stop()
    viewer.end()
    return code


def _choose(channels: Sequence[str], target: Target, *, is_durable: bool) -> list[str]:
    """Return the channels that were named, or those of the app, module or project."""
    try:
        names = check_channels(channels)
        if is_durable:
            for name in names:
                check_unreserved(name)
    except PgNotifierError as exc:
        raise click.UsageError(str(exc)) from None
    names = names or sorted(
        channel
        for notifier in target.notifiers
        for channel in find_channels(notifier, durable=is_durable)
        if not channel.startswith(PREFIX)
    )
    if names:
        return names
    if target.notifiers:
        kind = "durable" if is_durable else "other than durable"
        raise click.UsageError(
            f"{target.named_by} has no subscription that is {kind}: name a channel"
        )
    raise click.UsageError("name a channel, or an app with -A, a module with -m, or --settings")


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Print warnings about names that may be misspelt; other events have lines of their own."""
    logger, handler = logging.getLogger("pgnotifier"), _Warnings()
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "pgnotifier.spelling":
            click.echo(f"Warning: {printable(record.getMessage())}", err=True)
