"""Add the headers of Sentry and OpenTelemetry to stamped messages.

Both libraries hook into Celery's publishing, which stamped messages bypass. They add headers with
the ids of a trace. So each notification begins a trace, and all messages that are made from it get
its headers. The hooks of these two libraries are recognised by their functions. Any other hook is
an obstacle to stamping.
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
"""The headers that aren't in `task.request.headers` in the worker."""
INNER = "headers"
"""The header that becomes `task.request.headers` in the worker, if a message has it."""


class Library(ABC):
    """A tracing library with its present configuration. Equal ones add the same headers."""

    @property
    @abstractmethod
    def names(self) -> frozenset[str]:
        """The headers that it sets."""

    @abstractmethod
    def describe(self, settings: Mapping[str, Any]) -> Any:
        """Return what is the same for all messages like one.

        Args:
            settings: The arguments with which `Producer.publish` was called for that message.
        """

    @abstractmethod
    def make_headers(self, trace: "Trace", described: Any, task_id: str) -> Mapping[str, Any]:
        """Return the headers of a message that Celery doesn't make."""

    @abstractmethod
    def join(self, trace: "Trace", headers: MutableMapping[str, Any]) -> None:
        """Make a message that Celery makes part of the trace.

        Args:
            trace: The notification's trace.
            headers: The headers of the message, with those that the library has added.
        """

    @contextmanager
    def activate(self, trace: "Trace") -> Iterator[None]:  # noqa: ARG002
        """Make the messages that Celery publishes in the `with` block part of a trace."""
        yield


class Trace(msgspec.Struct, eq=False, gc=False):
    """The trace of one notification, in all libraries.

    Attributes:
        libraries: The libraries that are set up.
        delivery: The delivery that the trace was made for.
        known: What each library remembers of the trace, by the library's type.
        others: Further deliveries of the same notification.
    """

    libraries: tuple[Library, ...]
    delivery: Delivery
    known: dict[type[Library], Any] = {}
    others: tuple[Delivery, ...] = ()

    def includes(self, delivery: Delivery) -> bool:
        """Return whether a delivery is of the same notification, and remember it if so.

        A subscription gets each notification once. A second delivery to it is therefore of another
        notification, with the same content.
        """
        if delivery.binding is self.delivery.binding:
            return delivery is self.delivery
        mine, other = self.delivery.notification, delivery.notification
        if mine.raw != other.raw or mine.channel != other.channel or mine.pid != other.pid:
            return False
        if (mine.received_at, mine.count) != (other.received_at, other.count):
            return False
        for one in self.others:
            if one.binding is delivery.binding:
                return one is delivery
        self.others += (delivery,)
        return True

    @property
    def names(self) -> frozenset[str]:
        """The headers that the libraries set."""
        return frozenset().union(*(library.names for library in self.libraries))

    def describe(self, settings: Mapping[str, Any]) -> list[Any]:
        """Return what is the same for all messages like one, for each library."""
        return [library.describe(settings) for library in self.libraries]

    def make_headers(self, described: list[Any], task_id: str) -> dict[str, Any]:
        """Return the headers that the libraries add to a stamped message."""
        headers: dict[str, Any] = {}
        for library, description in zip(self.libraries, described, strict=True):
            try:
                headers.update(library.make_headers(self, description, task_id))
            except Exception:  # noqa: BLE001 - a library may raise anything
                _log_failure(library)
        return headers

    def join(self, headers: MutableMapping[str, Any]) -> None:
        """Make a message that Celery makes part of this trace."""
        for library in self.libraries:
            try:
                library.join(self, headers)
            except Exception:  # noqa: BLE001
                _log_failure(library)

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Make the messages that Celery publishes in the `with` block part of this trace."""
        with ExitStack() as stack:
            for library in self.libraries:
                try:
                    stack.enter_context(library.activate(self))
                except Exception:  # noqa: BLE001
                    _log_failure(library)
            yield


def _log_failure(library: Library) -> None:
    """Log why a message has no trace. The message is sent without it."""
    logger.debug(
        "%s failed to trace a message",
        type(library).__name__,
        exc_info=True,  # noqa: LOG014 - called by handlers
        extra=about("untraced"),
    )


def split_headers(
    headers: Mapping[str, Any], names: frozenset[str], origin: str
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return the outer and the inner headers of a message, without those of tracing.

    Args:
        headers: All headers.
        names: The names of the tracing headers.
        origin: The name of the origin header, which inner headers repeat.
    """
    if not names:
        return headers, None
    outer = {k: v for k, v in headers.items() if k not in names and k != INNER}
    inner = headers.get(INNER)
    if inner is not None:
        inner = {k: v for k, v in inner.items() if k not in names and k != origin}
    return outer, inner
