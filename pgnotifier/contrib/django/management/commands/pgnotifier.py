"""Define the command `manage.py pgnotifier`, which listens."""

import importlib
import json
import logging
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from pgnotifier._health.health_server import HealthServer
from pgnotifier._runtime.names import spell
from pgnotifier._runtime.redaction import redact
from pgnotifier.cli import foreground
from pgnotifier.cli.listing import with_durable
from pgnotifier.cli.metrics import HELP, expose_metrics
from pgnotifier.cli.tables import format_table
from pgnotifier.console import BESIDE
from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.channels import Channel, find_task_problems
from pgnotifier.contrib.django.notifiers import (
    MAKERS,
    all_notifiers,
    get_notifier,
    replace_dispatchers,
)
from pgnotifier.contrib.django.reloading import run_with_reloader
from pgnotifier.contrib.django.watching import Watch, describe, spell_durable
from pgnotifier.errors import ConfigurationError, PgNotifierError
from pgnotifier.notifier import Notifier
from pgnotifier.settings import SETTINGS


def _add_setting(parser: ArgumentParser, name: str, default: str = "") -> None:
    """Add an option that overrides a setting of `PGNOTIFIER`."""
    setting = SETTINGS[name]

    def read(text: str) -> Any:
        try:
            return setting.read("it", text)
        except PgNotifierError as exc:
            raise ArgumentTypeError(str(exc)) from None

    parser.add_argument(
        f"--{name.replace('_', '-')}", type=read, metavar=setting.metavar,
        help=f"{setting.help} Default: PGNOTIFIER[{name.upper()!r}]{default}.",
    )  # fmt: skip


@contextmanager
def _console(chosen: dict[str, Notifier], *, wanted: bool) -> Iterator[None]:
    """Serve the console beside the listeners, if that is wanted.

    Raises:
        CommandError: The console isn't installed, or can't be served.
    """
    if not wanted:
        yield
        return
    try:
        import click

        from pgnotifier.cli.console import beside

        importlib.import_module("pgnotifier.console.serving")  # only whether it is installed
    except ModuleNotFoundError as exc:
        raise CommandError(
            f"--console needs {exc.name}, which isn't installed. Run: "
            "pip install 'pgnotifier[console]'"
        ) from None
    with ExitStack() as stack:
        try:
            stack.enter_context(beside([*chosen.values()], wanted=True))
        except click.UsageError as exc:
            raise CommandError(exc.message) from None
        yield


class Command(BaseCommand):
    """Listens to all channels that have receivers or tasks."""

    help = (
        "Listens to PostgreSQL, and calls the receivers of channels or enqueues their tasks. "
        "SIGTERM and Ctrl-C stop listening, deliver what was received, and exit. The exit code is "
        "0 if everything was delivered, and 1 if not, or if there was no connection."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Define the options."""
        parser.add_argument(
            "-c", "--channel", action="append", dest="channels", default=[], metavar="NAME",
            help="Listen to this channel only; may be given several times. Default: all.",
        )  # fmt: skip
        parser.add_argument(
            "--dispatch", choices=MAKERS,
            help="Dispatcher of tasks, instead of PGNOTIFIER['DISPATCHER']; inline calls them in "
            "this process.",
        )  # fmt: skip
        parser.add_argument(
            "--list", action="store_true", dest="lists",
            help="Print channels, receivers and tasks, and exit.",
        )  # fmt: skip
        parser.add_argument("--json", action="store_true", help="Print --list as JSON.")
        parser.add_argument(
            "--standby", metavar="NAME",
            help="Only one of all listeners with this name listens; another takes over when it "
            "ends. Default: PGNOTIFIER['STANDBY'].",
        )  # fmt: skip
        parser.add_argument(
            "--no-wait", action="store_false", dest="wait",
            help="Exit with code 1 if PostgreSQL can't be reached at the start. Default: wait.",
        )  # fmt: skip
        parser.add_argument("--console", action="store_true", help=BESIDE)
        _add_setting(parser, "drain_timeout", ", 30")
        _add_setting(parser, "health_port")
        _add_setting(parser, "health_host", ", 127.0.0.1")
        parser.add_argument("--metrics", action="store_true", help=HELP)
        parser.add_argument(
            "--reload", action="store_true", default=None, dest="reload",
            help="Restart when code changes. Default: if DEBUG.",
        )  # fmt: skip
        parser.add_argument(
            "--noreload", action="store_false", dest="reload", help="Don't restart then.",
        )  # fmt: skip

    def handle(self, *_: Any, **options: Any) -> None:
        """Listen, or list the channels."""
        if options["dispatch"]:
            try:
                for channel in Channel.all_known():
                    get_notifier(channel.database)
                replace_dispatchers(options["dispatch"])
                for channel in Channel.all_known():
                    channel.subscribe_tasks()
            except (ImproperlyConfigured, PgNotifierError) as exc:
                raise CommandError(f"--dispatch {options['dispatch']}: {exc}") from exc
        if options["lists"]:
            self._list(as_json=options["json"], channels=options["channels"])
            return
        self._show_log(options["verbosity"])
        self._refuse_problems(options["channels"])
        reload = settings.DEBUG if options["reload"] is None else options["reload"]
        sys.exit(run_with_reloader(self._serve, options) if reload else self._listen(options))

    def _refuse_problems(self, channels: list[str]) -> None:
        """Refuse to start with settings that aren't right, or without some of the tasks."""
        problems = [f"{problem.message} {problem.hint}" for _, problem in conf.check_settings()]
        if not problems:
            problems += [
                f"task {spell(key)!r} of channel {channel.name!r}: {redact(problem)}"
                for channel, key, problem in find_task_problems()
                if not channels or channel.name in channels
            ]
            for name in ("ON_GAP", "ON_ERROR"):
                try:
                    hook = conf.get_imported(name)
                except ImproperlyConfigured as exc:
                    problems.append(str(exc))
                else:
                    if hook is not None and not callable(hook):
                        problems.append(
                            f"PGNOTIFIER[{name!r}] must be a callable or the path of one"
                        )
        if problems:
            raise CommandError("\n".join(problems))

    def _show_log(self, verbosity: int) -> None:
        """Show what listeners log, unless the project's LOGGING handles it."""
        log = logging.getLogger("pgnotifier")
        if not log.hasHandlers() and verbosity:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
            log.addHandler(handler)
            log.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)

    def _listen(self, options: dict[str, Any]) -> int:
        """Listen until a signal comes; return the exit code."""
        chosen = self._choose(options)
        port = options["health_port"] or conf.get("HEALTH_PORT")
        host = options["health_host"] or conf.get("HEALTH_HOST")
        health = None if port is None else HealthServer([*chosen.values()], port, host)
        if options["metrics"]:
            try:
                expose_metrics(health, chosen.values())
            except PgNotifierError as exc:
                raise CommandError(str(exc)) from None
        timeout = options["drain_timeout"]
        with _console(chosen, wanted=options["console"]), Watch(chosen):
            return foreground.listen(
                [*chosen.values()],
                conf.get("DRAIN_TIMEOUT") if timeout is None else timeout,
                health,
                self.stderr.write,
            )

    def _serve(self, options: dict[str, Any]) -> int:
        """Listen in the autoreloader's process; show errors, so that it waits for a change."""
        try:
            return self._listen(options)
        except CommandError as exc:
            self.stderr.write(self.style.ERROR(str(exc)))
            return 1

    def _choose(self, options: dict[str, Any]) -> dict[str, Notifier]:
        known = all_notifiers()
        if not known:
            raise CommandError(
                "there are no channels to listen to: connect a receiver or a task to a Channel in "
                "the module `notifications` of an app"
            )
        try:
            chosen = foreground.choose_channels([*known.values()], options["channels"])
        except ConfigurationError as exc:
            raise CommandError(str(exc)) from None
        for notifier in chosen:
            notifier.standby = options["standby"] or conf.get("STANDBY")
        foreground.set_waiting(chosen, wait=options["wait"])
        return {alias: one for alias, one in known.items() if one in chosen}

    def _list(self, *, as_json: bool, channels: list[str]) -> None:
        rows = [
            {"database": alias, **row}
            for alias in all_notifiers()
            for row in describe(alias)
            if not channels or row["channel"] in channels
        ]
        if as_json:
            self.stdout.write(json.dumps(rows, indent=2))
            return
        headings = {key: key.upper() for key in ("channel", "database", "receivers", "tasks")}
        joined = [
            {
                **row,
                "receivers": ", ".join(row["receivers"]),
                "tasks": ", ".join(row["tasks"]),
                "durable": ", ".join(spell_durable(row)),
            }
            for row in rows
        ]
        self.stdout.write(format_table(with_durable(headings, joined), joined))
