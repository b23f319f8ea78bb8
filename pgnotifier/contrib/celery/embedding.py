"""Run the listener in a worker (`celery worker --pgnotifier`), just as `-B` runs beat in one."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from celery import bootsteps
from celery.exceptions import ImproperlyConfigured
from celery.worker.control import inspect_command

from pgnotifier._health.health_server import HealthServer
from pgnotifier._runtime import process
from pgnotifier._runtime.backoff import Backoff
from pgnotifier._runtime.log_records import LogThrottle, about
from pgnotifier.cli.foreground import stop_all
from pgnotifier.cli.metrics import expose_metrics
from pgnotifier.contrib.celery.dispatcher import check_tasks, notifiers_of
from pgnotifier.contrib.celery.settings import check_settings, read_setting
from pgnotifier.contrib.celery.workers import Question
from pgnotifier.errors import (
    ConnectionFailedError,
    ListenRefusedError,
    NotifierStoppedError,
    NotListeningError,
    PgNotifierError,
)

if TYPE_CHECKING:
    from pgnotifier.notifier import Notifier

logger = logging.getLogger("pgnotifier.celery")

_Step: Any = bootsteps.StartStopStep
_inspect_command: Callable[[Callable[..., Any]], Any] = inspect_command()

TERMINATE_TIMEOUT = 0.7
"""Seconds to deliver the rest when the worker is terminated."""
WITHOUT_THREAD = 5.0
"""The longest pause, in seconds, between tries to start a thread."""

NO_NOTIFIER = """\
no notifier enqueues tasks of this app. In a module that the app imports (its own, or one in
`imports`, `include` or autodiscover_tasks()), write:

    from pgnotifier.contrib.celery import CeleryNotifier

    app.conf.pgnotifier_dsn = "postgresql://localhost/shop"
    notifier = CeleryNotifier(app)
    notifier.subscribe("resize", "image_uploaded", resize)"""


class EmbeddingError(PgNotifierError, ImproperlyConfigured, click.UsageError):
    """The worker can't listen. Celery's command line shows the message without a traceback."""


class Embedded:
    """The notifiers of a worker's app. Each of them listens or stands by.

    Another worker may be the one that listens: see `Notifier(standby=…)`.
    """

    def __init__(
        self,
        notifiers: "Sequence[Notifier]",
        drain_timeout: float,
        question: Question,
        call_after: Callable[..., object],
        health: HealthServer,
    ) -> None:
        """Prepare the notifiers; nothing is started yet.

        Args:
            notifiers: Notifiers with channels that aren't running.
            drain_timeout: Seconds to deliver the rest when the worker stops.
            question: Asks the other workers for tasks that this worker doesn't know.
            call_after: The worker's timer: calls a function with a tuple of arguments after a
                number of seconds.
            health: Answers probes while the worker runs, if it has a port.
        """
        self.health = health
        self.notifiers = notifiers
        self._question = question
        self._drain_timeout = drain_timeout
        self._call_after = call_after
        self._warn_no_thread = LogThrottle(logger)
        self._stopping = threading.Event()
        process.renew_in_children(self)

    def renew(self) -> None:
        """Close the port in a child of the pool, which runs tasks and answers no probes."""
        self.health.forget_in_child()

    def start(self) -> None:
        """Start each notifier in a thread of its own: tasks run even if PostgreSQL is down.

        Raises:
            ConfigurationError: The health port can't be opened. The worker ends then.
        """
        self.health.start()
        self._question.begin()
        for notifier in self.notifiers:
            notifier.daemon = True  # the worker decides when its process ends
            if notifier.startup_wait is None:
                notifier.startup_wait = True
            self._begin(notifier, Backoff(WITHOUT_THREAD))

    def stop(self) -> None:
        """Stop listening, and deliver what was received."""
        self._stop(self._drain_timeout)

    def terminate(self) -> None:
        """Stop, with hardly any time to deliver the rest."""
        self._stop(TERMINATE_TIMEOUT)

    def status(self) -> Mapping[str, Any]:
        """Return the status of the notifiers, as JSON-able values."""
        return {"notifiers": [notifier.status().to_dict() for notifier in self.notifiers]}

    def _begin(self, notifier: "Notifier", retries: Backoff) -> None:
        """Start the thread that starts a notifier. If there can be none, try again later."""
        if self._stopping.is_set():
            return
        try:
            threading.Thread(
                target=self._start, args=(notifier,), name="pgnotifier-start", daemon=True
            ).start()
        except RuntimeError as exc:
            # The worker goes on. Its timer is its event loop, with most brokers; with the others
            # it is a thread, and if there can't be that one either, this fails as Celery does.
            self._call_after(retries.pause(), self._begin, (notifier, retries))
            self._warn_no_thread(
                "not listening yet, as no thread can be started (%s); trying again",
                exc,
                extra=about("no_thread"),
            )

    def _start(self, notifier: "Notifier") -> None:
        backoff, warned = Backoff(), False
        while not self._stopping.is_set():
            try:
                notifier.start()
            except (ConnectionFailedError, ListenRefusedError, NotListeningError) as exc:
                logger.log(
                    logging.INFO if warned else logging.ERROR,
                    "%s; retrying",
                    exc,
                    extra=about("not_back", error=type(exc).__name__),
                )
                warned = True
                self._stopping.wait(backoff.pause())
            except NotifierStoppedError:
                return
            except PgNotifierError as exc:
                logger.exception(
                    "not listening", extra=about("not_listening", error=type(exc).__name__)
                )
                return
            else:
                return

    def _stop(self, timeout: float) -> None:
        self._stopping.set()
        self._question.end()
        stop_all(self.notifiers, timeout)
        self.health.stop()


class ListenerStep(_Step):  # type: ignore[misc]
    """The step of a worker's blueprint that listens, if the worker has --pgnotifier.

    https://docs.celeryq.dev/en/stable/userguide/extending.html#worker
    """

    label = "pgnotifier"
    conditional = True
    # The pool forks its first processes before there are threads.
    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, pgnotifier: bool = False, **settings: Any) -> None:
        self.enabled = pgnotifier
        self._port = settings.pop("pgnotifier_health_port", None)
        self._host = settings.pop("pgnotifier_health_host", None)
        self._metrics = settings.pop("pgnotifier_metrics", False)
        worker.pgnotifier = None
        super().__init__(worker, **settings)

    def create(self, worker: Any) -> Embedded:
        """Return the notifiers to start with the worker.

        Raises:
            EmbeddingError: The worker's pool isn't supported, no channel or no DSN is configured,
                a task name is taken, or a setting doesn't exist or is invalid.
        """
        pool = worker.pool_cls if isinstance(worker.pool_cls, str) else worker.pool_cls.__module__
        name = pool.rpartition(".")[2]
        if name in ("gevent", "eventlet"):
            raise EmbeddingError(
                f"--pgnotifier does not work with the pool {name}: it replaces threads with green "
                "threads, and the listener would block all tasks while it waits for PostgreSQL. "
                "Listen in a separate process (celery -A … pgnotifier), or use another pool"
            )
        notifiers = [one for one in notifiers_of(worker.app) if one.get_channels()]
        try:
            check_tasks(worker.app)
            check_settings(worker.app)
            drain_timeout = read_setting(worker.app, "drain_timeout")
            for notifier in notifiers:
                notifier.check_configured()
        except PgNotifierError as exc:
            raise EmbeddingError(str(exc)) from None
        if not notifiers:
            raise EmbeddingError(NO_NOTIFIER)
        stand_by(worker.app, notifiers)
        health = HealthServer(notifiers, self._port, self._host)
        if self._metrics:
            self._expose(health, notifiers)
        question = Question(worker.app, notifiers, known=worker.app.tasks)
        embedded = Embedded(notifiers, drain_timeout, question, worker.timer.call_after, health)
        worker.pgnotifier = embedded
        return embedded

    def _expose(self, health: HealthServer, notifiers: "Sequence[Notifier]") -> None:
        """Answer `/metrics`, and have the processes of the pool measure what they publish."""
        given = health if health.has_port else None
        try:
            expose_metrics(given, notifiers, "--pgnotifier-health-port")
        except PgNotifierError as exc:
            raise EmbeddingError(str(exc)) from None


def stand_by(app: Any, notifiers: "Sequence[Notifier]") -> None:
    """Give each notifier without a standby name one that is the same in every process."""
    for number, notifier in enumerate(notifiers):
        if notifier.standby is None:
            notifier.standby = f"celery {app.main} {number}"


def add_step(app: Any) -> None:
    """Add the step to the blueprint of the app's workers."""
    app.steps["worker"].add(ListenerStep)


@_inspect_command
def pgnotifier(state: Any, **_: Any) -> Mapping[str, Any]:
    """Show the status of the listener in a worker that was started with --pgnotifier."""
    embedded = getattr(state.consumer.controller, "pgnotifier", None)
    if embedded is None:
        return {"notifiers": [], "note": "this worker was started without --pgnotifier"}
    status: Mapping[str, Any] = embedded.status()
    return status
