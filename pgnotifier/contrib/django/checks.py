"""Check the settings, the databases and the models, for `manage.py check`."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, router
from django.db.transaction import atomic

from pgnotifier._connection.parameters import make_parameters
from pgnotifier._log.outbox_redaction import check_redact
from pgnotifier._runtime.names import spell
from pgnotifier._runtime.redaction import redact, show
from pgnotifier._runtime.suggestions import find_nearest
from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.channels import Channel, find_task_problems
from pgnotifier.contrib.django.models import Listener
from pgnotifier.contrib.django.notifiers import (
    MAKERS,
    NoCeleryAppError,
    NoDispatcherError,
    find_parameters,
    make_dispatcher,
)
from pgnotifier.contrib.django.outboxes import enable_outbox
from pgnotifier.contrib.django.rows import find_foreign_owner
from pgnotifier.contrib.django.triggers import NotifyOn
from pgnotifier.durable import check
from pgnotifier.errors import LogNotInstalledError, NotListeningError, PgNotifierError
from pgnotifier.notifier import Notifier

POOLER_PORTS = {"6432"}
"""The default port of PgBouncer: https://www.pgbouncer.org/config.html#listen_port."""


def check_configuration(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check `PGNOTIFIER` and what it refers to, without connecting to anything."""
    found: list[CheckMessage] = [
        Error(problem.message, hint=problem.hint, id=f"pgnotifier.{number}")
        for number, problem in conf.check_settings()
    ]
    if found:
        return found
    for alias in sorted(_aliases()):
        found += _check_alias(alias)
    found += [problem for name in ("ON_GAP", "ON_ERROR") for problem in _check_hook(name)]
    found += _check_redact()
    # These are warnings, because they only concern the listener: an error would stop `migrate` and
    # `runserver`. If the dispatcher can't be made, each task would repeat the reason.
    return [*found, *_check_outbox(), *(_check_dispatcher() or _check_tasks())]


def _check_redact() -> list[CheckMessage]:
    try:
        check_redact(conf.get_imported("OUTBOX_REDACT"))
    except (ImproperlyConfigured, PgNotifierError) as exc:
        hint = "Until then, the admin hides all arguments."
        return [checks.Warning(f"{exc}", hint=hint, id="pgnotifier.W005")]
    return []


def _check_outbox() -> list[CheckMessage]:
    try:
        enable_outbox()
    except (ImproperlyConfigured, PgNotifierError) as exc:
        hint = "Until then, tasks are published without regard to transactions."
        return [Error(f"{exc}.", hint=hint, id="pgnotifier.E017")]
    return []


def _check_hook(name: str) -> list[CheckMessage]:
    try:
        hook = conf.get_imported(name)
    except ImproperlyConfigured as exc:
        return [checks.Warning(f"{exc}", hint=_NO_LISTENER, id="pgnotifier.E011")]
    if hook is None or callable(hook):
        return []
    problem = f"PGNOTIFIER[{name!r}] must be the path of a callable, not of {show(hook)}."
    return [checks.Warning(problem, hint=_NO_LISTENER, id="pgnotifier.E011")]


def _check_dispatcher() -> list[CheckMessage]:
    kind = conf.get("DISPATCHER")
    if kind is None and not any(channel.tasks for channel in Channel.all_known()):
        return []
    try:
        make_dispatcher(kind)
    except NoDispatcherError as exc:
        return [_warn_of_tasks(f"There are tasks, but {exc}.", "Set one of them.", "E012")]
    except NoCeleryAppError as exc:
        return [_warn_of_tasks(f"{exc}.", _MAKE_APP, "E013")]
    except (ImproperlyConfigured, PgNotifierError) as exc:
        near = find_nearest(str(kind).lower(), MAKERS)
        hint = f"Did you mean {near!r}? " if near and kind not in MAKERS else ""
        hint += (
            f"Set it to one of {', '.join(MAKERS)}, or to the path of a callable that returns "
            "another dispatcher."
        )
        message = str(exc)
        if not message.startswith("PGNOTIFIER"):  # the dispatcher's own
            message = f"PGNOTIFIER['DISPATCHER'] can't be used: {exc}"
        return [_warn_of_tasks(message, hint, "E006")]
    return []


def _check_tasks() -> list[CheckMessage]:
    return [
        _warn_of_tasks(
            f"Task {spell(key)!r} of channel {channel.name!r} can't be subscribed: "
            f"{redact(problem)}",
            "Correct the arguments of Channel.task(), or PGNOTIFIER['DISPATCHER'].",
            "E014",
        )
        for channel, key, problem in find_task_problems()
        if not isinstance(problem, ImproperlyConfigured)  # that is a problem of the dispatcher
    ]


def _warn_of_tasks(message: str, hint: str, number: str) -> CheckMessage:
    return checks.Warning(message, hint=f"{hint} {_NO_LISTENER}", id=f"pgnotifier.{number}")


def check_databases(
    app_configs: Any, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """Check that the databases deliver notifications, for `check --database ALIAS`."""
    found: list[CheckMessage] = []
    for alias in sorted(_aliases() & set(databases or ())):
        if connections[alias].vendor != "postgresql":
            continue
        notifier = Notifier(partial(find_parameters, alias), autorun=False)
        notifier.add_channel("pgnotifier_check", autorun=False)
        try:
            notifier.start()
        except NotListeningError as exc:
            found.append(
                Error(
                    f"Database {alias!r} doesn't deliver notifications: {exc}",
                    hint=_DIRECTLY,
                    id="pgnotifier.E008",
                )
            )
        except (ImproperlyConfigured, PgNotifierError) as exc:
            found.append(
                Error(
                    f"It is not possible to listen to database {alias!r}: {exc}",
                    hint="Check that the server is running, and that it isn't a standby.",
                    id="pgnotifier.E009",
                )
            )
        finally:
            notifier.stop()
    return found


def check_table(
    app_configs: Any, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """Check that the table that listeners write to wasn't created by somebody else."""
    alias = router.db_for_write(Listener)
    if alias not in (databases or ()) or connections[alias].vendor != "postgresql":
        return []
    try:
        owner = find_foreign_owner()
    except DatabaseError:  # no connection, which another check reports
        return []
    if owner is None:
        return []
    table = Listener._meta.db_table
    return [
        checks.Warning(
            f"Table {table!r} of database {alias!r} belongs to role {owner!r}, whose triggers "
            "on it would be executed as the role that writes to it.",
            hint=f"If that role isn't yours, drop the table and run `manage.py migrate`; else give "
            f"it to the role that owns the project's tables: ALTER TABLE {table} OWNER TO ….",
            id="pgnotifier.W003",
        )
    ]


def check_models(app_configs: Iterable[Any] | None, **_: Any) -> list[CheckMessage]:
    """Check that models are written to the database of the channel that they notify."""
    found: list[CheckMessage] = []
    configs = apps.get_app_configs() if app_configs is None else app_configs
    for model in (model for config in configs for model in config.get_models()):
        for made in model._meta.constraints:
            if not isinstance(made, NotifyOn):
                continue
            known = Channel.known.get(made.channel)
            if known is not None and known.durable != made.durable:
                found.append(_report_durability(model, made, known))
            listened = conf.get("DATABASE") if known is None else known.database
            written = router.db_for_write(model)
            if written != listened:
                found.append(
                    Error(
                        f"{model._meta.label} is written to database {written!r}, but its "
                        f"channel {made.channel!r} belongs to database {listened!r}.",
                        hint=f"Define it as Channel({made.channel!r}, using={written!r}).",
                        obj=model,
                        id="pgnotifier.E010",
                    )
                )
    return found


def _report_durability(model: Any, made: NotifyOn, channel: Channel) -> CheckMessage:
    return Error(
        f"{model._meta.label} notifies channel {made.channel!r} with durable={made.durable}, but "
        f"the channel has durable={channel.durable}: its receivers get nothing.",
        hint="Pass the channel as an object, without durable=.",
        obj=model,
        id="pgnotifier.E016",
    )


def check_log(
    app_configs: Any, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """Check that the databases of durable channels have the log."""
    found: list[CheckMessage] = []
    aliases = {channel.database for channel in Channel.all_known() if channel.durable}
    for alias in sorted(aliases & set(databases or ())):
        if connections[alias].vendor != "postgresql":
            continue
        try:
            # A statement that the server refuses would abort the transaction of a test.
            with atomic(using=alias):
                connections[alias].ensure_connection()
                check(connections[alias].connection)
        except LogNotInstalledError as exc:
            # An error would stop `migrate`, which installs it.
            app = "pgnotifier.contrib.django.durable"
            added = "" if apps.is_installed(app) else f"add {app!r} to INSTALLED_APPS, and "
            found.append(
                checks.Warning(
                    f"Channels of database {alias!r} are durable, but {exc}",
                    hint=f"Or {added}run `manage.py migrate`.",
                    id="pgnotifier.W004",
                )
            )
        except (DatabaseError, PgNotifierError):
            # There is no connection, which another check reports; or this role only publishes.
            continue
    return found


_NO_LISTENER = "Until then, `manage.py pgnotifier` doesn't start."
_MAKE_APP = (
    "See https://docs.celeryq.dev/en/stable/django/first-steps-with-django.html: the project's "
    "__init__.py has to import the app."
)
_DIRECTLY = (
    "Add an alias to DATABASES that connects to PostgreSQL directly, or through a pooler in "
    "session mode, and set PGNOTIFIER['DATABASE'] or Channel(using=...) to it."
)


def _aliases() -> set[str]:
    used = {channel.database for channel in Channel.all_known()}
    return {str(conf.get("DATABASE")), *conf.outbox_aliases()} | used


def _check_alias(alias: str) -> list[CheckMessage]:
    if alias not in settings.DATABASES:
        existing = ", ".join(map(repr, settings.DATABASES))
        return [
            Error(
                f"Channels belong to database {alias!r}, which isn't in DATABASES.",
                hint=f"Use one of {existing}.",
                id="pgnotifier.E004",
            )
        ]
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return [
            Error(
                f"Channels belong to database {alias!r}, which is {connection.display_name}.",
                hint="Only PostgreSQL has NOTIFY. Set PGNOTIFIER['DATABASE'] to the alias of a "
                "PostgreSQL database.",
                id="pgnotifier.E005",
            )
        ]
    try:
        make_parameters(find_parameters(alias))
    except (ImproperlyConfigured, PgNotifierError) as exc:
        return [
            checks.Warning(
                f"Database {alias!r} can't be connected to: {exc}",
                hint=f"Correct DATABASES[{alias!r}]. {_NO_LISTENER}",
                id="pgnotifier.E015",
            )
        ]
    port = str(connection.settings_dict.get("PORT") or "")
    if port in POOLER_PORTS or connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
        return [
            checks.Warning(
                f"Database {alias!r} seems to be behind a pooler. A pooler in transaction mode "
                "doesn't deliver notifications.",
                hint=f"Try `manage.py check --database {alias}`. {_DIRECTLY}",
                id="pgnotifier.W001",
            )
        ]
    return []
