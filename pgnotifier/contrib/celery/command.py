"""Define the command `celery -A shop pgnotifier`, which listens and enqueues tasks."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click
from celery.bin.base import LOG_LEVEL, CeleryCommand, CeleryOption, handle_preload_options
from celery.bin.worker import worker

from pgnotifier._health.health_server import HOST, HealthServer
from pgnotifier.cli.console import beside
from pgnotifier.cli.foreground import choose_channels, listen, set_waiting
from pgnotifier.cli.metrics import HELP, expose_metrics
from pgnotifier.cli.options import SettingType, setting_option
from pgnotifier.console import BESIDE
from pgnotifier.contrib.celery.dispatcher import check_tasks, notifiers_of
from pgnotifier.contrib.celery.embedding import NO_NOTIFIER, add_step, stand_by
from pgnotifier.contrib.celery.listing import show_json, show_table
from pgnotifier.contrib.celery.settings import check_settings, read_setting
from pgnotifier.contrib.celery.workers import Question
from pgnotifier.errors import ConfigurationError, PgNotifierError, in_one_line
from pgnotifier.settings import SETTINGS

if TYPE_CHECKING:
    from pgnotifier.notifier import Notifier

NO_CHANNEL = """\
the app's notifiers have no channels. Subscribe to one in a module that the app imports:

    notifier.subscribe("resize", "image_uploaded", resize)"""


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
@setting_option("drain_timeout", "the setting pgnotifier_drain_timeout, 30", _option)
@setting_option("health_port", make=_option)
@setting_option("health_host", HOST, _option)
@_option("--metrics", is_flag=True, help=HELP)
@_option(
    "--standby",
    is_flag=True,
    help="Stand by while another listener of the app that has this option, or a worker with "
    "--pgnotifier, listens.  Take over when it ends.",
)
@_option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="If PostgreSQL can't be reached at the start, wait for it, or exit with code 1.",
)
@_option(
    "--console",
    "shows_console",
    is_flag=True,
    help=BESIDE,
)
@_option(
    "--list",
    "lists",
    is_flag=True,
    help="Print channels, subscriptions, tasks and queues, and exit.",
)
@_option("-j", "--json", "as_json", is_flag=True, help="Print --list as JSON.")
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
    drain_timeout: float | None = None,
    health_port: int | None = None,
    health_host: str | None = None,
    metrics: bool = False,
    standby: bool = False,
    wait: bool = True,
    shows_console: bool = False,
    lists: bool = False,
    as_json: bool = False,
    loglevel: int | str | None = None,
    logfile: str | None = None,
    **_: Any,
) -> None:
    """Listen to PostgreSQL and enqueue a task for each notification.

    Imports the app's modules as a worker does, and listens with every notifier that has
    a CeleryDispatcher for the app.  It doesn't run tasks; workers do.
    Run one such process.  Two enqueue each task twice, unless both have --standby.

    SIGTERM, SIGINT (Ctrl-C) and SIGHUP stop listening, deliver what was received, and exit;
    a second one exits at once.

    If PostgreSQL can't be reached at the start, it retries, and logs the reason once a minute.
    A signal ends that as well, with exit code 0.

    \b
    Exit codes:
    0  stopped, and everything that was received has been delivered
    1  PostgreSQL refused to listen, there was no connection (with --no-wait), or something that
       was received could not be delivered in time
    2  no channel or no DSN is configured, a channel or setting is unknown, or a task name is taken

    \b
    Examples:
    $ celery -A shop pgnotifier
    $ celery -A shop pgnotifier -l DEBUG -c image_uploaded -c order_paid
    $ celery -A shop pgnotifier --list
    """  # noqa: D301 - click doesn't wrap a paragraph with this mark
    app = ctx.obj.app
    app.set_current()
    app.set_default()  # the current app of other threads, such as those of inline callbacks
    try:
        app.loader.import_default_modules()
        app.finalize(auto=True)
    except PgNotifierError as exc:  # a module may start its notifier, for example
        raise click.UsageError(in_one_line(exc), ctx) from None
    app.log.setup(loglevel, logfile, colorize=False if ctx.obj.no_color else None)
    try:
        check_tasks(app)
        check_settings(app)
        timeout = read_setting(app, "drain_timeout") if drain_timeout is None else drain_timeout
    except PgNotifierError as exc:
        raise click.UsageError(str(exc), ctx) from None
    chosen = _choose(ctx, notifiers_of(app), channels)
    if lists:
        click.echo((show_json if as_json else show_table)(app, chosen))
        ctx.exit(0)
    if standby:
        stand_by(app, notifiers_of(app))
    _check_configured(ctx, chosen)
    set_waiting(chosen, wait=wait)
    health = None if health_port is None else HealthServer(chosen, health_port, health_host)
    if metrics:
        try:
            expose_metrics(health, chosen)
        except PgNotifierError as exc:
            raise click.UsageError(str(exc), ctx) from None
    with Question(app, chosen), beside(chosen, wanted=shows_console):
        code = listen(chosen, timeout, health, ctx.obj.error)
    ctx.exit(code)


def _check_configured(ctx: click.Context, notifiers: "Iterable[Notifier]") -> None:
    try:
        for notifier in notifiers:
            notifier.check_configured()
    except PgNotifierError as exc:
        raise click.UsageError(str(exc), ctx) from None


def _choose(
    ctx: click.Context, notifiers: "Sequence[Notifier]", channels: Iterable[str]
) -> "list[Notifier]":
    """Return the notifiers to start, with only the chosen channels."""
    if not notifiers:
        raise click.UsageError(NO_NOTIFIER, ctx)
    if not any(notifier.get_channels() for notifier in notifiers):
        raise click.UsageError(NO_CHANNEL, ctx)
    try:
        return choose_channels(notifiers, channels)
    except ConfigurationError as exc:
        raise click.UsageError(str(exc), ctx) from None


def _embed(ctx: click.Context, option: click.Parameter, value: bool) -> bool:  # noqa: ARG001
    if value:
        add_step(ctx.obj.app)
    return value


def _embedded_option(*names: str, **settings: Any) -> CeleryOption:
    return CeleryOption([*names], help_group="Embedded Listener Options", **settings)


# `celery` loads this module by its entry point, for every app, before it parses its arguments.
# `app.user_options` doesn't work here: it has to be set before the app's modules are imported.
worker.params += [
    _embedded_option(
        "--pgnotifier",
        is_flag=True,
        callback=_embed,
        help="Also listen to PostgreSQL and enqueue tasks.  If several workers have this option, "
        "one listens and the others stand by.",
    ),
    _embedded_option(
        "--pgnotifier-health-port",
        type=SettingType("health_port"),
        metavar=SETTINGS["health_port"].metavar,
        help="With --pgnotifier: " + SETTINGS["health_port"].help,
    ),
    _embedded_option(
        "--pgnotifier-health-host",
        type=SettingType("health_host"),
        metavar=SETTINGS["health_host"].metavar,
        help=f"{SETTINGS['health_host'].help}  Default: {HOST}.",
    ),
    _embedded_option(
        "--pgnotifier-metrics",
        is_flag=True,
        help="Also answer /metrics on that port, for Prometheus.  Needs the extra `prometheus`.",
    ),
]
