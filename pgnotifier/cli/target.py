"""The options that name a database: a connection string, an app, a module, or Django's settings."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import click
import psycopg

from pgnotifier._connection.parameters import Parameters
from pgnotifier.cli.finding import find_notifiers, show_traceback
from pgnotifier.errors import ConfigurationError, PgNotifierError, in_one_line
from pgnotifier.notifier import Notifier

_SETTINGS = "DJANGO_SETTINGS_MODULE"


@dataclass(frozen=True)
class Target:
    """The database that a command line names, with its app or notifiers if there are any.

    Attributes:
        parameters: How to connect to the database.
        notifiers: The notifiers of the app, module or project; none if only a database was named.
        app: The Celery app that --app names, or that a Django project's tasks belong to.
        named_by: The option or variable that has named it, for messages: `--dsn`, `-A shop` …
    """

    parameters: Parameters
    notifiers: tuple[Notifier, ...] = ()
    app: Any = None
    named_by: str = ""

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield a connection; print what fails in one line, and exit with code 1."""
        try:
            with self.parameters.connect() as connection:
                connection.execute("RESET synchronous_commit")  # what was reported is on disk
                yield connection
        except PgNotifierError as exc:
            raise click.ClickException(str(exc)) from None
        except psycopg.Error as exc:
            raise click.ClickException(in_one_line(exc)) from None


class _Given(NamedTuple):
    """The options of a command, or of its group."""

    dsn: str | None
    app: str | None
    module: str | None
    settings: str | None
    alias: str | None


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a database; the command gets a `Target` as `target`.

    The first of these that is given counts: `--dsn` (which may be given with one of the next
    three, and replaces their database), `--app`, `--module`, `--settings`, the environment
    variables PGNOTIFIER_DSN and DJANGO_SETTINGS_MODULE. Otherwise, libpq takes PGHOST, PGSERVICE
    and so on, and its defaults: https://www.postgresql.org/docs/current/libpq-envars.html

    A group may have these options as well; it isn't called if there is a subcommand, which takes
    the options of its group if it has none of its own.
    """

    @wraps(command)
    def run(
        *args: Any,
        dsn: str | None,
        app: str | None,
        module: str | None,
        settings: str | None,
        alias: str | None,
        **options: Any,
    ) -> Any:
        given = _Given(dsn, app, module, settings, alias)
        context = click.get_current_context()
        if not any(given):
            given = context.find_object(_Given) or given
        if context.invoked_subcommand is not None:
            context.obj = given  # which may have options of its own
            return None
        return command(*args, target=find_target(*given), **options)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run


_OPTIONS: tuple[Callable[..., Any], ...] = (
    click.option(
        "-d",
        "--dsn",
        metavar="DSN",
        help="The database: a conninfo string or URI.  What it leaves out is taken from PGHOST, "
        "PGSERVICE, ~/.pgpass and so on.  [env var: PGNOTIFIER_DSN]",
    ),
    click.option("-A", "--app", metavar="APP", help="The Celery app that listens to it."),
    click.option(
        "-m",
        "--module",
        metavar="MODULE:NAME",
        help="The module with the Notifier that listens to it.",
    ),
    click.option(
        "--settings",
        metavar="MODULE",
        help="The settings of the Django project that it belongs to.  "
        "[env var: DJANGO_SETTINGS_MODULE]",
    ),
    click.option(
        "--database",
        "alias",
        metavar="ALIAS",
        help="With Django's settings: an alias of DATABASES.  Default: PGNOTIFIER['DATABASE'].",
    ),
)


def find_target(
    dsn: str | None = None,
    app: str | None = None,
    module: str | None = None,
    settings: str | None = None,
    alias: str | None = None,
) -> Target:
    """Return the target of the options, or exit with code 2 and the reason why there isn't one."""
    named = {"--app": app, "--module": module, "--settings": settings}
    given = [name for name, value in named.items() if value]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} can't be given together")
    if not given and dsn is None:
        dsn = os.environ.get("PGNOTIFIER_DSN")
        settings = None if dsn else os.environ.get(_SETTINGS)
    if alias and not settings:
        raise click.UsageError(f"--database needs --settings, or {_SETTINGS} in the environment")
    try:
        found = _find(app, module, settings, alias)
        if dsn is not None:
            by = "--dsn" if not found.named_by else f"--dsn, {found.named_by}"
            found = Target(Parameters(dsn), found.notifiers, found.app, by)
        found.parameters.check()
    except PgNotifierError as exc:
        raise click.UsageError(str(exc)) from None
    return found


def _find(app: str | None, module: str | None, settings: str | None, alias: str | None) -> Target:
    if app:
        finder = _import_finder("celery", "celery")
        app_found, notifiers, parameters = _guarded(app, finder.find_app, app)
        return Target(parameters, tuple(notifiers), app_found, f"-A {app}")
    if module:
        (notifier,) = _guarded(module, find_notifiers, [module])
        return Target(notifier.parameters, (notifier,), None, f"-m {module}")
    if settings:
        finder = _import_finder("django", "django")
        app_found, notifiers, parameters = _guarded(settings, finder.find_project, settings, alias)
        return Target(parameters, tuple(notifiers), app_found, f"the Django settings {settings}")
    return Target(Parameters(""))


def _import_finder(name: str, extra: str) -> Any:
    """Return the module `finding` of an integration, which imports its framework."""
    try:
        return importlib.import_module(f"pgnotifier.contrib.{name}.finding")
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("pgnotifier"):
            raise
        raise click.UsageError(
            f"{exc.name} isn't installed. Run:  pip install 'pgnotifier[{extra}]'"
        ) from None


def _guarded(named: str, find: Callable[..., Any], *args: Any) -> Any:
    """Call a function that imports modules of users; show the traceback of what they raise."""
    try:
        return find(*args)
    except PgNotifierError:
        raise
    except Exception as exc:  # noqa: BLE001 - modules of users may raise anything
        show_traceback(exc)
        why = in_one_line(f"{type(exc).__name__}: {exc}")
        raise ConfigurationError(f"{named} can't be imported: {why}") from None
