"""Provide `CeleryNotifier`, a Notifier that reads its configuration from the Celery app."""

import logging
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeVar

from celery import Celery

from pgnotifier._connection.parameters import MissingParameters, Parameters, make_parameters
from pgnotifier._registry.checks import check_channels
from pgnotifier._runtime.log_records import about
from pgnotifier._runtime.sync import ForkSafeLock
from pgnotifier.contrib.celery.dispatcher import CeleryDispatcher, check_app
from pgnotifier.contrib.celery.outbox import CeleryOutbox
from pgnotifier.contrib.celery.settings import SETTINGS, check_settings, read_setting
from pgnotifier.errors import ConfigurationError, PgNotifierError
from pgnotifier.notifier import Notifier
from pgnotifier.settings import OUTBOX_SETTINGS

Fn = TypeVar("Fn", bound=Callable[..., object])
Packages = list[str] | Callable[[], list[str]] | None

logger = logging.getLogger("pgnotifier.celery")

_lock = ForkSafeLock()  # guards the next two
_notifiers: "weakref.WeakSet[CeleryNotifier]" = weakref.WeakSet()
_shared: "list[Callable[[CeleryNotifier], object]]" = []

PASSED_ON = (
    "standby",
    "buffer_size",
    "buffer_bytes",
    "overflow",
    "heartbeat",
    "heartbeat_timeout",
    "answers",
    "remote_commands",
)


NO_DSN = (
    "the setting pgnotifier_dsn is missing: before the notifier is made, set app.conf."
    "pgnotifier_dsn (with a namespace, CELERY_PGNOTIFIER_DSN) or the environment variable "
    "PGNOTIFIER_DSN, for example to 'postgresql://localhost/shop'"
)


class CeleryNotifier(Notifier):
    """A Notifier with a `CeleryDispatcher`, configured by the settings of the app.

        app = Celery("shop")
        app.config_from_object("django.conf:settings", namespace="CELERY")
        notifier = CeleryNotifier(app)

    | setting | default | meaning |
    |---|---|---|
    | `pgnotifier_dsn` | required | libpq parameters: a dict, a string, a URI, or a callable |
    | `pgnotifier_task_prefix` | `pgnotifier.` | the prefix of task names |
    | `pgnotifier_standby` | none | see `Notifier(standby=…)` |
    | `pgnotifier_buffer_size` | 100,000 | notifications in the buffer |
    | `pgnotifier_buffer_bytes` | 64 MiB | size of their payloads |
    | `pgnotifier_overflow` | `block` | see `Notifier(overflow=…)` |
    | `pgnotifier_heartbeat` | 15 | seconds, see `Notifier` |
    | `pgnotifier_heartbeat_timeout` | 5 | seconds |
    | `pgnotifier_drain_timeout` | 30 | seconds to deliver the rest when stopping |
    | `pgnotifier_answers` | True | see `Notifier(answers=…)` |
    | `pgnotifier_remote_commands` | False | see `Notifier(remote_commands=…)` |
    | `pgnotifier_outbox_max_age` | none | see `CeleryOutbox.relay_to(max_age=…)`, in seconds |
    | `pgnotifier_outbox_allow` | registered tasks | see `CeleryOutbox.relay_to(allow=…)` |

    Each can also be set by an environment variable, such as `PGNOTIFIER_DSN`.
    """

    def __init__(self, app: Celery, **arguments: Any) -> None:
        """Read the app's configuration; nothing is connected yet.

        A missing or invalid setting is logged here, and raised only when the notifier starts,
        because processes that don't listen import the same module. `celery pgnotifier` and
        `worker --pgnotifier` exit with the error.

        Args:
            app: The app, already configured. Settings that change later are not seen.
            arguments: Arguments of `Notifier`, as well as `db_conf` and `task_prefix`. They take
                precedence over the settings.

        Raises:
            ConfigurationError: The value of an argument is invalid.
            ArgumentTypeError: The app or an argument is of the wrong type.
        """
        self.app = app = check_app(app)
        self._problem: PgNotifierError | None = None
        configured = self._read(arguments)
        prefix, given = configured.pop("task_prefix"), arguments.pop("task_prefix", None)
        if given is not None:
            prefix = given
        db_conf = arguments.pop("db_conf", None) or self._find_db_conf()
        dispatcher = CeleryDispatcher(app, prefix)
        super().__init__(db_conf, dispatcher=dispatcher, **{**configured, **arguments})
        with _lock:
            _notifiers.add(self)
            shared = tuple(_shared)
        for subscribe_to in shared:
            subscribe_to(self)

    @cached_property
    def outbox(self) -> CeleryOutbox:
        """The app's outbox, which this notifier relays from now on.

        For one with another name: `CeleryOutbox(app, name).relay_to(notifier)`.
        """
        outbox = CeleryOutbox(self.app)
        outbox.relay_to(self)
        return outbox

    def check_configured(self) -> None:
        """Check the settings of the app.

        Raises:
            ConfigurationError: `pgnotifier_dsn` isn't set, or a setting that begins with
                `pgnotifier_` doesn't exist or has an invalid value.
        """
        if self._problem is not None:
            raise ConfigurationError(str(self._problem)) from self._problem
        super().check_configured()

    def _read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that aren't given as arguments; defaults if a setting is invalid."""
        names = ["task_prefix", *(name for name in PASSED_ON if name not in given)]
        try:
            check_settings(self.app)
            for name in OUTBOX_SETTINGS:  # which the outbox reads
                read_setting(self.app, name)
            found = {name: read_setting(self.app, name) for name in names}
        except PgNotifierError as exc:
            self._postpone(exc)
            return {name: SETTINGS[name].default for name in names}
        return found

    def _find_db_conf(self) -> Parameters:
        """Return the parameters of the connection."""
        try:
            dsn = read_setting(self.app, "dsn")
            return make_parameters(dsn) if dsn else MissingParameters(NO_DSN)
        except PgNotifierError as exc:
            self._postpone(exc)
            return MissingParameters(str(exc))

    def _postpone(self, problem: PgNotifierError) -> None:
        logger.warning("this notifier can't be started: %s", problem, extra=about("not_configured"))
        self._problem = self._problem or problem

    def autodiscover(self, packages: Packages = None, related_name: str = "notifications") -> None:
        """Import the module `notifications` of each package when the app imports its tasks.

        Args:
            packages: The names of the packages, or a callable that returns them. Default: the
                packages that the app's fixups know, such as Django's installed apps.
            related_name: The name of the modules.

        https://docs.celeryq.dev/en/stable/reference/celery.html#celery.Celery.autodiscover_tasks
        """
        self.app.autodiscover_tasks(packages, related_name=related_name)


def shared_subscription(
    channels: str | Iterable[str], id: Hashable = None, **options: Any
) -> Callable[[Fn], Fn]:
    """Subscribe the decorated function with every `CeleryNotifier`, as `@shared_task` does.

    This is for packages that don't know the app. It includes notifiers that are made later.

        @shared_subscription("orders", queue="low")
        def invoice(id, channel, payload, pid): ...

    Args:
        channels: One channel as a str, or any iterable of them.
        id: The subscription's id. Default: `"module.qualname"` of the function.
        options: As for `Notifier.subscribe`.
    """
    names = check_channels(channels)

    def subscribed(fn: Fn) -> Fn:
        def subscribe_to(notifier: CeleryNotifier) -> object:
            return notifier.on(names, id, **options)(fn)

        with _lock:
            _shared.append(subscribe_to)
            known = tuple(_notifiers)
        for notifier in known:
            subscribe_to(notifier)
        return fn

    return subscribed
