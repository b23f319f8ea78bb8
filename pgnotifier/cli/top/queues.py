"""The thread of `pgnotifier top` that asks brokers how long their queues are."""

import contextlib
import importlib
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, cast

from pgnotifier._inquiry.report import ListenerReport
from pgnotifier.cli.printable import printable
from pgnotifier.cli.target import Target
from pgnotifier.errors import in_one_line

MOST = 200
"""How many queues are measured at most, so that it stays cheap."""
OLD = 10.0
"""Seconds after which a length isn't shown any more."""
_INTEGRATIONS = ("celery", "rq")


class QueueSource(Protocol):
    """A broker: see `find_queues` of the integrations."""

    kind: str
    dispatchers: Collection[str]

    def measure(self, names: Collection[str]) -> Mapping[str, int | None]:
        """Return the lengths of queues; None for one that isn't known."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@dataclass(frozen=True, slots=True)
class QueueLength:
    """One queue in a broker.

    Attributes:
        name: Its name.
        kind: The workers that read it: `Celery` or `RQ`.
        length: How many messages wait in it; None if it doesn't exist, or isn't known.
        error: Why it isn't known.
    """

    name: str
    kind: str
    length: int | None
    error: str | None = None


def find_sources(target: Target) -> list[QueueSource]:
    """Return the brokers of the app, module or project that a command line names."""
    dispatchers = [one for notifier in target.notifiers for one in notifier.dispatchers]
    found: list[QueueSource] = []
    for name in _INTEGRATIONS:
        used = [one for one in dispatchers if _belongs(one, name)]
        if used or (name == "celery" and target.app is not None):
            module = importlib.import_module(f"pgnotifier.contrib.{name}.queue_lengths")
            found.extend(cast("list[QueueSource]", module.find_queues(target.app, used)))
    return found


def _belongs(dispatcher: object, integration: str) -> bool:
    prefix = f"pgnotifier.contrib.{integration}."
    return any(kind.__module__.startswith(prefix) for kind in type(dispatcher).__mro__)


class QueueWatcher:
    """Asks brokers on a thread of its own: one that hangs holds up nothing else.

    Attributes:
        is_configured: Whether there is a broker to ask.
    """

    def __init__(self, sources: Sequence[QueueSource] = (), interval: float = 2.0) -> None:
        """Take the brokers; the thread starts with the first listener that is known."""
        self.is_configured = bool(sources)
        self._sources = sources
        self._interval = interval
        self._names: Mapping[str, Collection[str]] = {}
        self._known: tuple[QueueLength, ...] = ()
        self._known_at = monotonic()
        self._asked = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def latest(self, reports: Sequence[ListenerReport]) -> tuple[QueueLength, ...]:
        """Return what is known, without waiting, and have the queues of listeners measured.

        Args:
            reports: The listeners. Their subscriptions name the queues.
        """
        if not self._sources or self._stopped.is_set():
            return ()
        names: dict[str, set[str]] = {}
        for one in reports:
            for sub in one.subscriptions:
                if sub.queue:
                    names.setdefault(sub.dispatcher, set()).add(sub.queue)
        self._names = names
        self._asked.set()
        if self._thread is None:
            run = threading.Thread(target=self._run, name="pgnotifier-queues", daemon=True)
            run.start()
            self._thread = run
        known = self._known
        if monotonic() - self._known_at > OLD + self._interval:
            why = "the broker doesn't answer"
            return tuple(QueueLength(one.name, one.kind, None, why) for one in known)
        return known

    def stop(self) -> None:
        """End the thread, without waiting for it."""
        self._stopped.set()
        self._asked.set()

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._stopped.is_set():
                break
            found = [each for one in self._sources for each in self._measure(one)]
            self._known, self._known_at = tuple(found), monotonic()
        for one in self._sources:
            with contextlib.suppress(Exception):
                one.close()

    def _measure(self, source: QueueSource) -> list[QueueLength]:
        named = set().union(*(self._names.get(one, ()) for one in source.dispatchers))
        names = sorted(named)[:MOST]
        if not names:
            return []
        try:
            lengths = source.measure(names)
        except Exception as exc:  # noqa: BLE001 - brokers' clients have errors of their own
            why = printable(in_one_line(exc))
            return [QueueLength(name, source.kind, None, why) for name in names]
        return [QueueLength(name, source.kind, lengths.get(name)) for name in names]
