"""Run `pgnotifier demo`: the whole route on real servers, in about 15 seconds.

stage       servers, workers and the listener         (app, schema.sql: what a user would write)
scenario    what is sent and when                     (recording: what tasks record)
accounting  what was executed, or not                 (view, live: how it is shown)
"""

import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import redis

from pgnotifier.demo.processes import DemoError
from pgnotifier.demo.scenario import Scenario
from pgnotifier.demo.stage import Stage, set_stage
from pgnotifier.demo.view import PlainView, View
from pgnotifier.errors import in_one_line
from pgnotifier.testing import ServerError
from pgnotifier.testing.wheels import find_postgres

__all__ = ["run"]

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


def run(*, app: str, orders: int, keep: bool) -> int:
    """Run the demo and return its exit code.

    Args:
        app: The module of the Celery app and the notifier. Tests have apps that lose notifications.
        orders: How many orders to place and pay, at 10 a second.
        keep: Whether to leave everything running until Ctrl-C.

    Raises:
        ServerNotInstalledError: The wheel of a server isn't installed.
    """
    try:
        with _interruptible(), choose_view() as view, set_stage(app, view) as stage:
            scenario = Scenario(stage, view, orders)
            result = scenario.play()
            if keep:
                _keep(stage, scenario, view)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # as with `pgnotifier demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DemoError, ServerError) as exc:
        # Other errors may quote a log of several lines.
        said = in_one_line(exc) if isinstance(exc.__cause__, psycopg.Error) else exc
        print(f"pgnotifier demo: {said}", file=sys.stderr)
        return 1
    except (psycopg.OperationalError, redis.RedisError) as exc:  # from an external server
        print(f"pgnotifier demo: can't reach a server: {in_one_line(exc)}", file=sys.stderr)
        return 1
    return 0 if result.is_good else 1


def _keep(stage: Stage, scenario: Scenario, view: View) -> None:
    view.keep(_instructions(stage))
    try:
        while True:
            scenario.watch(time.monotonic() + 3600)
    except KeyboardInterrupt:
        return


def _instructions(stage: Stage) -> str:
    psql = "psql" if shutil.which("psql") else str(find_postgres() / "bin" / "psql")
    command = f"{shlex.quote(psql)} {shlex.quote(stage.dsn)} -c"
    statements = (
        "SELECT pg_notify('ch1', '[6, 7]')",
        "INSERT INTO orders (item) VALUES ('jam')",
        "SELECT pgnotifier.publish('paid', '[8, 9]')",
    )
    lines = [
        "Everything is still running; press Ctrl-C to end it. Try:\n",
        *(f'    {command} "{statement}"' for statement in statements),
        f"\nDSN: {stage.dsn}",
        f"broker: {stage.broker_url}",
    ]
    return "\n".join(lines)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGTERM and SIGHUP act like Ctrl-C: end everything, and restore the terminal."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def choose_view() -> View:
    """Return the view for a terminal, or the plain one if standard output isn't a terminal."""
    from rich.console import Console

    console = Console()
    # With FORCE_COLOR, rich assumes a terminal; but an animation in a file is useless.
    if not sys.stdout.isatty() or console.is_dumb_terminal:
        return PlainView()
    from pgnotifier.demo.live import LiveView

    return LiveView(console)
