"""The command line itself, made with click."""

import sys

import click

import pgnotifier as package
from pgnotifier.cli import INTERRUPTED, NOT_INSTALLED, explain_missing
from pgnotifier.health import probe
from pgnotifier.testing.errors import ServerNotInstalledError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package.__version__, prog_name="pgnotifier")
def pgnotifier() -> None:
    """NOTIFY in, work out: PostgreSQL notifications become Celery tasks."""


@pgnotifier.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    required=True,
    envvar="PGNOTIFIER_HEALTH_PORT",
    show_envvar=True,
    help="That of health_port, or of --health-port.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens.")
@click.option("--live", is_flag=True, help="Ask whether it runs, not whether it is ready.")
def health(port: int, host: str, live: bool) -> None:
    """Ask a listener whether it is ready: for the probes of containers.

    Exit code: 0 if it is, 1 if it isn't, or doesn't answer.
    """
    well, said = probe(port, "/healthz" if live else "/readyz", host)
    click.echo(said, err=not well)
    sys.exit(0 if well else 1)


@pgnotifier.command()
@click.option("--keep", is_flag=True, help="Leave everything running, until Ctrl-C.")
@click.option("--app", default="pgnotifier.demo.app", hidden=True)
@click.option("--orders", type=click.IntRange(min=10), default=160, hidden=True)
def demo(keep: bool, app: str, orders: int) -> None:
    """Watch rows inserted into a real PostgreSQL become tasks of real workers.

    Starts a PostgreSQL, a Valkey, two Celery workers and the listener; inserts orders, cuts
    the listener's database session half-way, and accounts for every notification. Takes
    about 15 seconds and leaves nothing behind.

    Exit code: 0 if every notification was executed or lies inside a reported gap, 1 if one
    doesn't or something could not be started, 2 if something isn't installed, 130 on Ctrl-C.
    """
    try:
        from pgnotifier.demo import run

        code = run(app=app, orders=orders, keep=keep)
    except ModuleNotFoundError as exc:
        explain_missing(exc)
    except KeyboardInterrupt:  # while importing, which takes a moment
        code = INTERRUPTED
    except ServerNotInstalledError as exc:
        click.echo(f"pgnotifier: {exc}", err=True)
        code = NOT_INSTALLED
    sys.exit(code)
