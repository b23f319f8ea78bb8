"""The subcommand `send`: one notification, or one for each line of a file."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat as repeat_value
from pathlib import Path

import click
import psycopg

from pgnotifier._registry.checks import check_channel
from pgnotifier._runtime.log_records import count
from pgnotifier.cli.exits import INTERRUPTED
from pgnotifier.cli.printable import printable
from pgnotifier.cli.send.payloads import BadLineError, Line, LineReader, has_json
from pgnotifier.cli.send.sending import TOGETHER, ChannelSender, LogSender, Pace, send_all
from pgnotifier.cli.target import Target, target_options
from pgnotifier.errors import PgNotifierError, in_one_line

_PER = {"s": 1, "min": 60, "h": 3600}
_CAPITALS = re.compile(r"(?=.*[A-Z])[^\W\d][\w$]*")


def read_rate(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Return a rate per second, given `100`, `100/s` or `30/min`."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(?:/(s|min|h))?", text.strip(), re.ASCII)
    rate = float(found[1]) / _PER[found[2] or "s"] if found else 0.0
    if not 0 < rate < float("inf"):
        raise click.BadParameter(f"{text!r} isn't a rate such as 100/s, 30/min or 5/h")
    return rate


@click.command()
@click.argument("channel")
@click.argument("payload", required=False)
@target_options
@click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Send each line of a file; '-' is standard input.  Blank lines are left out.  In .jsonl "
    "and .ndjson, each line has to be JSON.",
)
@click.option(
    "--rate", callback=read_rate, metavar="N/s", help="Send so many at most: 100/s, 30/min, 5/h."
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    metavar="N",
    help="Send PAYLOAD so often.",
)
@click.option(
    "--durable",
    is_flag=True,
    help="Publish in the durable log, for durable subscriptions; up to 64 MiB each.",
)
@click.option("--key", metavar="KEY", help="With --durable: what the entries are about.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the result as JSON.")
def send(
    channel: str,
    payload: str | None,
    target: Target,
    path: str | None,
    rate: float | None,
    repeat: int | None,
    durable: bool,
    key: str | None,
    as_json: bool,
) -> None:
    """Send a notification on CHANNEL.

    PAYLOAD is sent as it is given; without it, the payload is empty.  If it is `-`, standard input
    is sent, without the newline at its end.  NOTIFY takes up to 7,999 bytes.

    With --file, up to 1,000 lines are one transaction, and PostgreSQL delivers all of them or none.
    A file is checked first: if one of its lines can't be sent, none is.  Standard input is sent as
    it comes, so lines before a bad one are sent.  If it fails in the middle, the lines of earlier
    transactions were sent; the error says how many.  Equal lines are sent in transactions of their
    own, as PostgreSQL would otherwise send one of them.

    PgBouncer in transaction mode does no harm here.

    \b
    Exit codes:
    0    everything was sent
    1    the database can't be reached or refuses, or a line can't be sent
    2    the options, the channel or the payload are wrong; nothing was sent
    130  ended by Ctrl-C; what was sent is printed

    \b
    Examples:
    $ pgnotifier send orders '{"id": 7}'
    $ pgnotifier send orders --file orders.jsonl --rate 100/s
    $ pgnotifier send orders --durable --key 7 - < order.json
    """  # noqa: D301 - click's mark for a paragraph that it must not wrap
    _check_options(channel, payload, path, repeat, key, durable=durable)
    with target.connected() as connection:
        sender = (
            LogSender(connection, channel, key) if durable else ChannelSender(connection, channel)
        )
        with _failures_explained(sender):
            if path is None:
                _send_payload(sender, payload, repeat or 1, Pace(rate))
            else:
                _send_file(sender, path, rate)
    _report(channel, sender.sent, as_json=as_json, durable=durable)


def _check_options(
    channel: str,
    payload: str | None,
    path: str | None,
    repeat: int | None,
    key: str | None,
    *,
    durable: bool,
) -> None:
    try:
        check_channel(channel)
    except PgNotifierError as exc:
        raise click.UsageError(str(exc)) from None
    if path is not None and payload is not None:
        raise click.UsageError("give PAYLOAD or --file, not both")
    if path is not None and repeat is not None:
        raise click.UsageError("--repeat is for PAYLOAD, not for --file")
    if key is not None and not durable:
        raise click.UsageError("--key needs --durable: a notification has no key")
    if not durable and _CAPITALS.fullmatch(channel):
        click.echo(
            f'Warning: it goes to "{channel}"; LISTEN {channel} without quotes listens to '
            f"{channel.lower()!r}",
            err=True,
        )


def _send_payload(sender: ChannelSender, payload: str | None, times: int, pace: Pace) -> None:
    text = _read_input() if payload == "-" else payload or ""
    try:
        sender.check(text)
    except PgNotifierError as exc:
        raise click.UsageError(str(exc)) from None
    line = Line(1, text)
    full, rest = divmod(times, TOGETHER)
    blocks = [*repeat_value([line] * TOGETHER, full), [line] * rest]
    with _progress(times) as advance:
        send_all(sender, blocks, pace, advance)


def _read_input() -> str:
    data = sys.stdin.buffer.read()
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise click.UsageError("standard input isn't valid UTF-8") from None


def _send_file(sender: ChannelSender, path: str, rate: float | None) -> None:
    if path == "-":
        reader = LineReader(sender.check, is_json=False)
        send_all(sender, reader.read(sys.stdin.buffer), Pace(rate))
        return
    reader = LineReader(sender.check, is_json=has_json(Path(path)))
    try:
        with Path(path).open("rb") as source:
            total = None
            if source.seekable():
                total = sum(map(len, reader.read(source)))  # a bad line ends it here
                os.lseek(source.fileno(), 0, os.SEEK_SET)
            with _progress(total) as advance:
                send_all(sender, reader.read(source), Pace(rate), advance)
    except OSError as exc:
        raise click.ClickException(f"{printable(path)}: {exc.strerror}") from None


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], object]]:
    """Yield a function that shows progress, if standard error is a terminal and it is worth it."""
    if not sys.stderr.isatty() or (total is not None and total <= 1):
        yield lambda _: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    except ModuleNotFoundError:  # extras such as `celery` don't install it
        yield lambda _: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("send", total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def _failures_explained(sender: ChannelSender) -> Iterator[None]:
    """Say how much was sent before something failed."""
    try:
        yield
    except BadLineError as exc:
        raise click.ClickException(f"{printable(str(exc))}; {_account(sender)}") from None
    except (psycopg.Error, PgNotifierError) as exc:
        why = printable(in_one_line(exc))
        raise click.ClickException(f"{why}; {_account(sender)}") from None
    except KeyboardInterrupt:
        click.echo(f"interrupted; {_account(sender)}", err=True)
        sys.exit(INTERRUPTED)


def _account(sender: ChannelSender) -> str:
    sent = f"{sender.sent:,} sent before that" if sender.sent else "nothing was sent"
    lines = sender.under_way
    if not lines or not sender.is_uncertain:
        return sent
    which = count(len(lines), "payload")
    if lines[-1].number > lines[0].number:
        which = f"lines {lines[0].number:,} to {lines[-1].number:,}"
    return f"{sent}; whether {which} arrived is unknown"


def _report(channel: str, sent: int, *, as_json: bool, durable: bool) -> None:
    if as_json:
        click.echo(json.dumps({"channel": channel, "sent": sent, "durable": durable}))
        return
    noun = count(sent, "entry", "entries") if durable else count(sent, "notification")
    verb = "published" if durable else "sent"
    click.echo(f"{verb} {noun} to channel {printable(repr(channel))}")
