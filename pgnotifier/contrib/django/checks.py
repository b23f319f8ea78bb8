"""System checks: what `manage.py check` says of the settings, the databases and the models."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router

from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.channels import Channel
from pgnotifier.contrib.django.notifiers import MAKERS, find_parameters, make_dispatcher
from pgnotifier.contrib.django.triggers import NotifyOn
from pgnotifier.errors import NotHearingError, PgNotifierError
from pgnotifier.notifier import Notifier

POOLER_PORTS = {"6432"}
"""PgBouncer's own: https://www.pgbouncer.org/config.html#listen_port."""


def check_configuration(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check `PGNOTIFIER`, and what it names; connects to nothing."""
    found: list[CheckMessage] = [
        Error(problem.message, hint=problem.hint, id=f"pgnotifier.{number}")
        for number, problem in conf.check_settings()
    ]
    if found:
        return found
    for alias in sorted(_aliases()):
        found += _check_alias(alias)
    kind = conf.get("DISPATCHER")
    if kind is not None:
        try:
            make_dispatcher(kind)
        except (ImproperlyConfigured, PgNotifierError) as exc:
            found.append(
                Error(
                    f"PGNOTIFIER['DISPATCHER'] can't be used: {exc}",
                    hint=f"It is one of {', '.join(MAKERS)}, or the path of what makes another.",
                    id="pgnotifier.E006",
                )
            )
    return found


def check_databases(
    app_configs: Any, databases: Sequence[str] | None = None, **_: Any
) -> list[CheckMessage]:
    """Listen to something, for `check --database ALIAS`."""
    found: list[CheckMessage] = []
    for alias in sorted(_aliases() & set(databases or ())):
        if connections[alias].vendor != "postgresql":
            continue
        notifier = Notifier(partial(find_parameters, alias), autorun=False)
        notifier.add_channel("pgnotifier_check", autorun=False)
        try:
            notifier.start()
        except NotHearingError as exc:
            found.append(
                Error(
                    f"Database {alias!r} swallows notifications: {exc}",
                    hint=_DIRECTLY,
                    id="pgnotifier.E008",
                )
            )
        except PgNotifierError as exc:
            found.append(
                Error(
                    f"Nobody can listen to database {alias!r}: {exc}",
                    hint="See to it that the server is there, and that it is no standby.",
                    id="pgnotifier.E009",
                )
            )
        finally:
            notifier.stop()
    return found


def check_models(app_configs: Iterable[Any] | None, **_: Any) -> list[CheckMessage]:
    """Check that models notify in the database in which their channel is heard."""
    found: list[CheckMessage] = []
    configs = apps.get_app_configs() if app_configs is None else app_configs
    for model in (model for config in configs for model in config.get_models()):
        for made in model._meta.constraints:
            if not isinstance(made, NotifyOn):
                continue
            known = Channel.known.get(made.channel)
            heard = conf.get("DATABASE") if known is None else known.database
            written = router.db_for_write(model)
            if written != heard:
                found.append(
                    Error(
                        f"{model._meta.label} is written to database {written!r}, and its "
                        f"channel {made.channel!r} is heard in {heard!r}.",
                        hint=f"Make it Channel({made.channel!r}, using={written!r}).",
                        obj=model,
                        id="pgnotifier.E010",
                    )
                )
    return found


_DIRECTLY = (
    "Add an alias to DATABASES that connects to PostgreSQL directly, or through a pool of "
    "sessions, and name it in PGNOTIFIER['DATABASE'], or in Channel(using=...)."
)


def _aliases() -> set[str]:
    return {str(conf.get("DATABASE")), *(channel.database for channel in Channel.known.values())}


def _check_alias(alias: str) -> list[CheckMessage]:
    if alias not in settings.DATABASES:
        there = ", ".join(map(repr, settings.DATABASES))
        return [
            Error(
                f"Channels are heard in database {alias!r}, which isn't in DATABASES.",
                hint=f"There are {there}.",
                id="pgnotifier.E004",
            )
        ]
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return [
            Error(
                f"Channels are heard in database {alias!r}, which is {connection.display_name}.",
                hint="Only PostgreSQL notifies. Name an alias of one in PGNOTIFIER['DATABASE'].",
                id="pgnotifier.E005",
            )
        ]
    port = str(connection.settings_dict.get("PORT") or "")
    if port in POOLER_PORTS or connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS"):
        return [
            checks.Warning(
                f"Database {alias!r} seems to be behind a pooler; one that pools transactions "
                "swallows notifications.",
                hint=f"Try `manage.py check --database {alias}`. {_DIRECTLY}",
                id="pgnotifier.W001",
            )
        ]
    return []
