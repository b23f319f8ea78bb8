"""The command and its subcommands `listen`, `health` and `demo`, made with click."""

import json
import logging
import sys

import click

import pgnotifier as package
from pgnotifier._health.health_server import HOST, HealthServer
from pgnotifier.cli import console, durable, foreground, outbox, positions, trigger
from pgnotifier.cli.doctor.command import doctor
from pgnotifier.cli.exits import INTERRUPTED, NOT_INSTALLED, explain_missing
from pgnotifier.cli.finding import find_notifiers, show_traceback
from pgnotifier.cli.foreground import choose_channels
from pgnotifier.cli.listing import show_json, show_table
from pgnotifier.cli.metrics import HELP, expose_metrics
from pgnotifier.cli.options import setting_option
from pgnotifier.cli.printable import printable
from pgnotifier.cli.probing import probe
from pgnotifier.cli.sections import SectionedGroup
from pgnotifier.cli.send.command import send
from pgnotifier.cli.status.command import status
from pgnotifier.cli.tail.command import tail
from pgnotifier.cli.top.command import top
from pgnotifier.console import BESIDE
from pgnotifier.errors import PgNotifierError, in_one_line
from pgnotifier.settings import SETTINGS
from pgnotifier.testing.errors import ServerNotInstalledError

DRAIN_TIMEOUT: float = SETTINGS["drain_timeout"].default


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package.__version__, prog_name="pgnotifier")
def pgnotifier() -> None:
    """Turn PostgreSQL notifications into tasks, jobs and calls."""


for _subcommand in (
    durable.install,
    durable.uninstall,
    durable.dead,
    durable.replay,
    positions.positions,
    positions.reclaim,
    outbox.outbox,
    console.console,
    tail,
    send,
    status,
    top,
    doctor,
    trigger.trigger,
):
    pgnotifier.add_command(_subcommand)


@pgnotifier.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    required=True,
    envvar="PGNOTIFIER_HEALTH_PORT",
    show_envvar=True,
    help="The listener's health_port or --health-port.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The listener's health_host or --health-host.",
)
@click.option("--live", is_flag=True, help="Ask whether it runs, not whether it is ready.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
def health(port: int, host: str, live: bool, as_json: bool) -> None:
    """Ask a listener whether it is ready, for the probes of containers.

    Exit code: 0 if it is ready, 1 if it isn't, or doesn't answer.
    """
    found = probe(port, "/healthz" if live else "/readyz", host)
    if as_json:
        click.echo(json.dumps(found._asdict()))
    else:
        lines = map(printable, found.trouble or found.states)
        click.echo("\n".join(lines), err=not found.ok)
    sys.exit(0 if found.ok else 1)


@pgnotifier.command()
@click.argument("notifiers", metavar="MODULE:NAME...", nargs=-1, required=True)
@click.option(
    "-c",
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="Listen to this channel only; may be given several times.  Default: all channels.",
)
@setting_option("drain_timeout", f"{DRAIN_TIMEOUT:g}", default=DRAIN_TIMEOUT)
@setting_option("health_port")
@setting_option("health_host", HOST)
@click.option("--metrics", is_flag=True, help=HELP)
@click.option(
    "--standby",
    is_flag=True,
    help="Listen only if no other process listens that was started like this. Otherwise stand by, "
    "and take over when that process ends.",
)
@click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="If PostgreSQL can't be reached at the start, wait for it, or exit with code 1.",
)
@click.option(
    "--console",
    "shows_console",
    is_flag=True,
    help=BESIDE,
)
@click.option("--list", "lists", is_flag=True, help="Print channels and subscriptions, and exit.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print --list as JSON.")
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    default="INFO",
    show_default=True,
    help="Logging level.",
)
def listen(
    notifiers: tuple[str, ...],
    channels: tuple[str, ...],
    drain_timeout: float,
    health_port: int | None,
    health_host: str | None,
    metrics: bool,
    standby: bool,
    wait: bool,
    shows_console: bool,
    lists: bool,
    as_json: bool,
    loglevel: str,
) -> None:
    """Run the listeners of modules in the foreground.

    Imports each MODULE from the current directory or the Python path, and starts its Notifier
    called NAME (default: notifier).  Use it for RQ, and for callbacks in this process.  With
    Celery, use `celery -A app pgnotifier` instead.

    On SIGTERM, SIGINT (Ctrl-C) or SIGHUP it stops listening, delivers what was received, and
    exits.  On a second signal it exits at once.

    If PostgreSQL can't be reached at the start, for whatever reason, it retries, and logs the
    reason once a minute.  A signal ends that with exit code 0.

    \b
    Exit codes:
    0  stopped, and everything received was delivered
    1  PostgreSQL refused LISTEN, connecting failed (with --no-wait), or something that was
       received could not be delivered in time
    2  there is no channel or no connection string, a module fails, or a channel is unknown

    \b
    Examples:
    $ pgnotifier listen shop.notifications
    $ pgnotifier listen shop.notifications:notifier --standby --health-port 8080
    """  # noqa: D301 - click's mark for a paragraph that it must not wrap
    logging.basicConfig(level=loglevel, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    try:
        found = find_notifiers(notifiers)
        chosen = choose_channels(found, channels)
        for notifier in () if lists else chosen:
            notifier.check_configured()
    except PgNotifierError as exc:
        raise click.UsageError(str(exc)) from None
    except Exception as exc:  # noqa: BLE001 - modules of users may raise anything
        show_traceback(exc)
        why = in_one_line(f"{type(exc).__name__}: {exc}")
        raise click.UsageError(f"{' '.join(notifiers)} can't be imported: {why}") from None
    if lists:
        click.echo((show_json if as_json else show_table)(chosen))
        return
    for spec, notifier in zip(notifiers, found, strict=True):
        if standby and notifier.standby is None:
            notifier.standby = f"pgnotifier {spec}"
    foreground.set_waiting(chosen, wait=wait)
    health = None if health_port is None else HealthServer(chosen, health_port, health_host)
    if metrics:
        try:
            expose_metrics(health, chosen)
        except PgNotifierError as exc:
            raise click.UsageError(str(exc)) from None
    with console.beside(chosen, wanted=shows_console):
        code = foreground.listen(
            chosen, drain_timeout, health, lambda why: click.echo(why, err=True)
        )
    sys.exit(code)


@pgnotifier.command()
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
@click.option("--app", default="pgnotifier.demo.app", hidden=True)
@click.option("--orders", type=click.IntRange(min=10), default=80, hidden=True)
def demo(keep: bool, app: str, orders: int) -> None:
    """Watch rows inserted into a real PostgreSQL become tasks of real workers.

    Starts PostgreSQL, Valkey, two Celery workers and the listener.  Orders are placed, which
    notifies, and paid, which is published durably.  Half-way, the listener is cut off from the
    database: the notifications of that moment are missing, what is durable waits.  Accounts for
    everything, takes about 15 seconds, and leaves nothing behind.

    Exit code: 0 if everything durable was executed, and every notification was or lies inside a
    reported gap; 1 if one wasn't or something could not be started, 2 if something isn't
    installed, 130 on Ctrl-C.
    """
    try:
        from pgnotifier.demo import run

        code = run(app=app, orders=orders, keep=keep)
    except ModuleNotFoundError as exc:
        explain_missing(exc, "demo")
    except KeyboardInterrupt:  # during the import, which takes a moment
        code = INTERRUPTED
    except ServerNotInstalledError as exc:
        click.echo(f"pgnotifier: {exc}", err=True)
        code = NOT_INSTALLED
    sys.exit(code)
