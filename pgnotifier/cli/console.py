"""The subcommand `console`, and the option `--console` of commands that listen."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from pgnotifier.cli.exits import explain_missing
from pgnotifier.cli.target import Target, target_options
from pgnotifier.console import HOST, INTERVAL, PORT
from pgnotifier.errors import PgNotifierError
from pgnotifier.notifier import Notifier

TOKEN = "PGNOTIFIER_CONSOLE_TOKEN"  # noqa: S105 - the variable's name


@click.command()
@target_options
@click.option(
    "--host",
    default=HOST,
    show_default=True,
    envvar="PGNOTIFIER_CONSOLE_HOST",
    show_envvar=True,
    help="The address to listen on.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT,
    show_default=True,
    envvar="PGNOTIFIER_CONSOLE_PORT",
    show_envvar=True,
    help="The port.  0: any that is free.",
)
@click.option(
    "--token",
    metavar="TEXT",
    envvar=TOKEN,
    show_envvar=True,
    help="What whoever opens the page has to know.  Better in the environment than here, where "
    "other users of the machine see it.",
)
@click.option(
    "--user-header",
    metavar="NAME",
    help="The header in which the proxy in front says who the user is, as X-Forwarded-User.  Only "
    "that proxy may be able to reach the console.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="A further name of this machine that browsers may ask for; may be given several times.",
)
@click.option("--show-payloads", is_flag=True, help="Show payloads, which may be personal.")
@click.option("--read-only", is_flag=True, help="Change nothing: no retry, no drop, no mute.")
@click.option(
    "--interval",
    type=click.FloatRange(0.5, 60),
    default=INTERVAL,
    show_default=True,
    help="Seconds between two looks at the listeners.",
)
def console(
    target: Target,
    host: str,
    port: int,
    token: str | None,
    user_header: str | None,
    names: tuple[str, ...],
    show_payloads: bool,
    read_only: bool,
    interval: float,
) -> None:
    """Serve a page that shows the listeners of a database, live.

    It shows what `pgnotifier status` does, with plots of the last hour, gaps, the last
    notifications of a channel, dead letters and outboxes.  Failed deliveries can be retried and
    dropped there, and channels be muted.

    On this machine alone, no password is needed.  On any other --host, it needs a --token, or the
    --user-header of a proxy.

    Exit codes: 0 after a signal, 2 if it can't be served so.

    \b
    Examples:
    $ pgnotifier console
    $ pgnotifier console -A shop --show-payloads
    $ PGNOTIFIER_CONSOLE_TOKEN=… pgnotifier console --host 0.0.0.0
    """  # noqa: D301 - click's mark for a paragraph that it must not wrap
    server = _make_server(
        target.parameters,
        host=host,
        port=port,
        token=token,
        user_header=user_header,
        names=names,
        shows_payloads=show_payloads,
        read_only=read_only,
        interval=interval,
    )
    # What isn't read by somebody in front of a terminal may be kept.
    shown = server.url if sys.stdout.isatty() else server.address
    click.echo(f"the console is at {shown}  (Ctrl-C ends it)")
    sys.stdout.flush()
    # uvicorn ends with the signal that has stopped it; a console that was stopped has succeeded.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: sys.exit(0))
    # It leaves this one alone. A terminal that is closed sends it; `nohup` has it ignored.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    server.run()


@contextlib.contextmanager
def beside(notifiers: Sequence[Notifier], *, wanted: bool) -> Iterator[None]:
    """Serve the console beside listeners, for the database of the first.

    Host and port are PGNOTIFIER_CONSOLE_HOST and PGNOTIFIER_CONSOLE_PORT, or 127.0.0.1 and 8484.
    """
    if not wanted:
        yield
        return
    host = os.environ.get("PGNOTIFIER_CONSOLE_HOST", HOST)
    text = os.environ.get("PGNOTIFIER_CONSOLE_PORT", str(PORT))
    if not text.isdecimal() or int(text) > 65535:
        raise click.UsageError(f"PGNOTIFIER_CONSOLE_PORT must be a port, not {text!r}")
    server = _make_server(
        notifiers[0].parameters, host=host, port=int(text), token=os.environ.get(TOKEN) or None
    )
    with server.beside():
        click.echo(f"the console is at {server.address}", err=True)
        yield


def _make_server(parameters: Any, **options: Any) -> Any:
    try:
        from pgnotifier.console.serving import ConsoleServer, Options
    except ModuleNotFoundError as exc:
        explain_missing(exc, "console")
    try:
        return ConsoleServer(parameters, Options(**options))
    except PgNotifierError as exc:
        raise click.UsageError(str(exc)) from None
