"""`celery -A shop pgnotifier`: listens in the foreground and enqueues tasks."""

import difflib
import logging
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import LOG_LEVEL, CeleryCommand, CeleryOption, handle_preload_options

from pgnotifier.contrib.celery.dispatcher import check_tasks, notifiers_of
from pgnotifier.errors import PgNotifierError, TaskNameError

if TYPE_CHECKING:
    from pgnotifier.notifier import Notifier

logger = logging.getLogger("pgnotifier.celery")

DRAIN_TIMEOUT = 30.0

NO_NOTIFIER = """\
no notifier enqueues tasks of this app. In a module that the app imports (its own, or one in
`imports`, `include` or autodiscover_tasks()), write:

    from pgnotifier import Notifier
    from pgnotifier.contrib.celery import CeleryDispatcher

    notifier = Notifier("postgresql://localhost/shop", dispatcher=CeleryDispatcher(app))
    notifier.subscribe("resize", "image_uploaded", resize)"""

NO_CHANNEL = """\
the app's notifiers have no channel. Subscribe to one in a module that the app imports:

    notifier.subscribe("resize", "image_uploaded", resize)"""


class _SignalledError(BaseException):
    """SIGTERM or SIGINT came; a BaseException, as Ctrl-C is, so that nobody swallows it."""


_handles_preload_options: Callable[[Any], Any] = handle_preload_options


def _option(*names: str, **settings: Any) -> Callable[[Any], Any]:
    return click.option(*names, cls=CeleryOption, help_group="Listener Options", **settings)


@click.command(cls=CeleryCommand)
@_option(
    "-c",
    "--channel",
    "channels",
    multiple=True,
    metavar="NAME",
    help="Listen to this channel only; may be given several times.  Default: every channel "
    "that has a subscription.",
)
@_option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=DRAIN_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="How long to go on delivering what was received, after SIGTERM or SIGINT.",
)
@_option(
    "-l",
    "--loglevel",
    type=LOG_LEVEL,
    default="INFO",
    show_default=True,
    help="Logging level.",
)
@_option("-f", "--logfile", metavar="PATH", help="Log destination; defaults to stderr.")
@click.pass_context
@_handles_preload_options
def pgnotifier(
    ctx: click.Context,
    channels: tuple[str, ...] = (),
    drain_timeout: float = DRAIN_TIMEOUT,
    loglevel: int | str | None = None,
    logfile: str | None = None,
    **_: Any,
) -> None:
    """Listen to PostgreSQL and enqueue a task for each notification.

    Imports the app's modules as a worker does, and listens with every notifier that has
    a CeleryDispatcher for the app.  It runs no task: that is what workers are for.
    One such process is enough; two enqueue each task twice.

    SIGTERM and SIGINT (Ctrl-C) stop listening, deliver what was received, and exit; a second
    one exits at once.

    \b
    Exit codes:
    0  stopped, and everything received was delivered
    1  no connection, or something received could not be delivered in time
    2  nothing to listen to, an unknown channel, or a task name that is taken

    \b
    Examples:
    $ celery -A shop pgnotifier
    $ celery -A shop pgnotifier -l DEBUG -c image_uploaded -c order_paid
    """  # noqa: D301 - click's mark for a paragraph that isn't to be wrapped
    app = ctx.obj.app
    app.set_current()
    app.set_default()  # other threads' current app, such as that of inline callbacks
    app.loader.import_default_modules()
    app.finalize(auto=True)
    app.log.setup(loglevel, logfile, colorize=False if ctx.obj.no_color else None)
    try:
        check_tasks(app)
    except TaskNameError as exc:
        raise click.UsageError(str(exc), ctx) from None
    chosen = _choose(ctx, notifiers_of(app), channels)
    ctx.exit(_listen(ctx, chosen, drain_timeout))


def _choose(
    ctx: click.Context, notifiers: "Sequence[Notifier]", channels: Iterable[str]
) -> "list[Notifier]":
    """Return the notifiers to start, left with the chosen channels only."""
    if not notifiers:
        raise click.UsageError(NO_NOTIFIER, ctx)
    known = {name for notifier in notifiers for name in notifier.get_channels()}
    if not known:
        raise click.UsageError(NO_CHANNEL, ctx)
    wanted = set(channels) or known
    for name in sorted(wanted - known):
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        listed = ", ".join(map(repr, sorted(known)))
        raise click.UsageError(
            f"no subscription on channel {name!r}{hint}; there are {listed}", ctx
        )
    for notifier in notifiers:
        notifier.remove_channels(notifier.get_channels() - wanted, autorun=False)
    return [notifier for notifier in notifiers if notifier.get_channels()]


def _listen(ctx: click.Context, notifiers: "Sequence[Notifier]", drain_timeout: float) -> int:
    """Listen until a signal comes; return the exit code."""
    failed = False
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_first_signal)
    try:
        for notifier in notifiers:
            notifier.start()
        while all(notifier.is_running() for notifier in notifiers):
            notifiers[0].wait(1.0)
        logger.error("a notifier stopped by itself; leaving")
        failed = True
    except _SignalledError as signalled:
        logger.info("%s: delivering what was received", signalled)
    except PgNotifierError as exc:
        ctx.obj.error(" ".join(f"Error: {exc}".split()))
        failed = True
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_second_signal)
    undelivered = _stop(notifiers, drain_timeout)
    if not (failed or undelivered):
        logger.info("stopped; everything received was delivered")
    return int(failed or undelivered > 0)


def _stop(notifiers: "Sequence[Notifier]", timeout: float) -> int:
    """Stop them all at the same time; return how many deliveries were given up."""
    with ThreadPoolExecutor(len(notifiers)) as pool:
        return sum(pool.map(lambda notifier: notifier.stop(timeout), notifiers))


def _on_first_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _on_second_signal)
    raise _SignalledError(signal.Signals(number).name)


def _on_second_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    os.write(2, b"second signal: leaving at once; what was not delivered is given up\n")
    os._exit(1)
