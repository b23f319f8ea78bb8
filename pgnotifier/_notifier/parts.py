"""The parts of a notifier, and how they are put together."""

from dataclasses import dataclass, field

from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.publisher import Publisher
from pgnotifier._delivery.readiness import Probes
from pgnotifier._delivery.reports import ErrorReport, GapReport
from pgnotifier._health.health_server import HealthServer
from pgnotifier._listener.listener import Settings
from pgnotifier._listener.state import StateReport
from pgnotifier._notifier.attachments import Attachments
from pgnotifier._notifier.changes import Changes
from pgnotifier._notifier.describing import describe
from pgnotifier._notifier.lifecycle import Lifecycle, Owner
from pgnotifier._notifier.listener_factory import Buffering, ListenerFactory
from pgnotifier._registry.registry import Registry
from pgnotifier._registry.writer import Registrar
from pgnotifier._runtime.autostart import Autostart
from pgnotifier.dispatch import Dispatcher
from pgnotifier.status import Status


@dataclass(frozen=True, slots=True)
class Reports:
    """What a notifier reports, to the log and to the user's hooks.

    Attributes:
        errors: Failed deliveries, to `on_error`.
        gaps: Gaps, to `on_gap`.
        states: Changes of its state, to `on_state`.
    """

    errors: ErrorReport
    gaps: GapReport
    states: StateReport

    def forget_in_child(self) -> None:
        """Leave what the parent reports to the parent."""
        self.states.forget_in_child()


@dataclass(slots=True)
class Parts:
    """The parts of a notifier.

    Attributes:
        parameters: Where it connects to.
        reports: What it reports.
        publisher: The connection of `notify()`.
        attachments: Its dispatchers.
        factory: Makes its listeners.
        lifecycle: Starts and stops its listeners.
        registrar: Holds its registry.
        changes: Makes its changes.
        probes: Checks its dispatchers.
    """

    parameters: Parameters
    reports: Reports
    publisher: Publisher
    attachments: Attachments
    factory: ListenerFactory
    lifecycle: Lifecycle
    registrar: Registrar
    changes: Changes
    probes: Probes = field(default_factory=Probes)

    @property
    def registry(self) -> Registry:
        """The current registry."""
        return self.registrar.registry

    def describe(self) -> Status:
        """Return the status: see `Notifier.status`."""
        reports = self.reports
        return describe(
            *(self.parameters, self.registry, self.lifecycle.listener),
            *(reports.states, reports.errors, reports.gaps),
        )

    def readiness_problems(self) -> list[str]:
        """Return why the notifier isn't ready: see `Notifier.readiness_problems`."""
        current = self.reports.states.current
        problems = []
        if current.state not in ("listening", "standby"):
            problems.append(f"{current.state} since {current.since.isoformat(timespec='seconds')}")
        return problems + self.probes.readiness_problems(tuple(self.attachments))

    def forget_in_child(self) -> None:
        """Forget the parent's listener and threads in a forked child."""
        self.lifecycle.forget_in_child()
        self.reports.forget_in_child()
        self.probes = Probes()
        self.attachments.forget_in_child()


def assemble(
    owner: Owner,
    parameters: Parameters,
    dispatcher: Dispatcher,
    settings: Settings,
    buffering: Buffering,
    reports: Reports,
    autostart: Autostart,
    *,
    health: HealthServer | None,
    startup_wait: bool | float | None,
) -> Parts:
    """Put the parts of a notifier together. Nothing is started, and no dispatcher attached.

    Args:
        owner: The notifier.
        parameters: Where it connects to.
        dispatcher: Its default dispatcher.
        settings: How its listeners listen.
        buffering: The bounds of its buffers.
        reports: What it reports.
        autostart: Decides whether a change starts it.
        health: Answers probes while it runs, if given.
        startup_wait: What `Notifier(wait=)` takes.
    """
    publisher = Publisher(parameters)
    attachments = Attachments(owner, dispatcher)
    factory = ListenerFactory(
        owner,
        parameters,
        lambda: registrar.registry,
        reports.gaps,
        reports.states,
        settings,
        buffering,
    )
    lifecycle = Lifecycle(owner, factory, attachments, publisher, health, startup_wait)
    registrar = Registrar(reports.errors, lifecycle.note_heir)
    changes = Changes(owner, registrar, lifecycle, attachments, autostart)
    return Parts(
        *(parameters, reports, publisher, attachments, factory, lifecycle, registrar, changes)
    )
