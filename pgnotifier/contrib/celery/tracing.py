"""Tracing: what Sentry and OpenTelemetry add to messages, added to stamped ones as well.

Both hook into Celery's publishing, which stamped messages don't go through. What they add there is
known: headers that hold the ids of a trace. So each notification begins a trace, and all messages
that are made of it carry its headers. Hooks of these two are recognised by the very functions;
whatever else hooks in is an obstacle.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
from celery.app.task import Context

from pgnotifier._runtime.log_records import about
from pgnotifier.dispatch import Delivery

logger = logging.getLogger("pgnotifier.celery")

CELERYS_OWN = frozenset(vars(Context)) | {"lang", "task", "argsrepr", "kwargsrepr", "compression"}
"""The headers that aren't in `task.request.headers` on the worker."""
INNER = "headers"
"""The header that is `task.request.headers` on the worker, if a message has it."""


class Library(ABC):
    """A tracing library, as it is set up now. Those that are equal do the same."""

    @property
    @abstractmethod
    def names(self) -> frozenset[str]:
        """The headers that it sets."""

    @abstractmethod
    def describe(self, settings: Mapping[str, Any]) -> Any:
        """Return what it says of all messages like one, of which `Producer.publish` got this."""

    @abstractmethod
    def make_headers(self, trace: "Trace", described: Any, task_id: str) -> Mapping[str, Any]:
        """Return the headers of a message that Celery doesn't make."""

    @abstractmethod
    def join(self, trace: "Trace", headers: MutableMapping[str, Any]) -> None:
        """Have a message that Celery makes, and the trace, belong together.

        Args:
            trace: The notification's.
            headers: The message's, to which the library has added its own.
        """

    @contextmanager
    def activate(self, trace: "Trace") -> Iterator[None]:  # noqa: ARG002
        """Have what Celery publishes meanwhile belong to a trace."""
        yield


class Trace(msgspec.Struct, eq=False, gc=False):
    """The trace of one notification, by all libraries.

    Attributes:
        libraries: Those that are set up.
        delivery: The first that it was made for.
        known: What each library knows of it, by the library's type.
        others: The further ones.
    """

    libraries: tuple[Library, ...]
    delivery: Delivery
    known: dict[type[Library], Any] = {}
    others: tuple[Delivery, ...] = ()

    def includes(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is of the same notification, and take note of it, if so.

        Each subscription gets a notification once: a second one is that of another, equal one.
        """
        mine, other = self.delivery.notification, delivery.notification
        if mine.raw != other.raw or mine.channel != other.channel or mine.pid != other.pid:
            return False
        if (mine.received_at, mine.count) != (other.received_at, other.count):
            return False
        for one in (self.delivery, *self.others):
            if one.binding is delivery.binding:
                return one is delivery
        self.others += (delivery,)
        return True

    @property
    def names(self) -> frozenset[str]:
        """The headers that the libraries set."""
        return frozenset().union(*(library.names for library in self.libraries))

    def describe(self, settings: Mapping[str, Any]) -> list[Any]:
        """Return what the libraries say of all messages like one."""
        return [library.describe(settings) for library in self.libraries]

    def make_headers(self, described: list[Any], task_id: str) -> dict[str, Any]:
        """Return what the libraries add to a message that Celery doesn't make."""
        headers: dict[str, Any] = {}
        for library, description in zip(self.libraries, described, strict=True):
            try:
                headers.update(library.make_headers(self, description, task_id))
            except Exception:  # noqa: BLE001 - of whatever type
                _log_failure(library)
        return headers

    def join(self, headers: MutableMapping[str, Any]) -> None:
        """Have a message that Celery makes belong to this trace."""
        for library in self.libraries:
            try:
                library.join(self, headers)
            except Exception:  # noqa: BLE001
                _log_failure(library)

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Have what Celery publishes meanwhile belong to this trace."""
        with ExitStack() as stack:
            for library in self.libraries:
                try:
                    stack.enter_context(library.activate(self))
                except Exception:  # noqa: BLE001
                    _log_failure(library)
            yield


def _log_failure(library: Library) -> None:
    """Say why a message has no trace: better so than that there is no message."""
    logger.debug(
        "%s failed to trace a message",
        type(library).__name__,
        exc_info=True,  # noqa: LOG014 - called by handlers
        extra=about("untraced"),
    )


def split_headers(
    headers: Mapping[str, Any], names: frozenset[str], origin: str
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return a message's headers without those of tracing: outer ones, and inner ones, if any.

    Args:
        headers: All of them.
        names: Those of tracing.
        origin: The name of the one that the inner ones repeat.
    """
    if not names:
        return headers, None
    outer = {k: v for k, v in headers.items() if k not in names and k != INNER}
    inner = headers.get(INNER)
    if inner is not None:
        inner = {k: v for k, v in inner.items() if k not in names and k != origin}
    return outer, inner
