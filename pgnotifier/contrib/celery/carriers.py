"""Send stamped messages to the broker, and know which of them it has acknowledged."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.stamping import CeleryStamp
from pgnotifier.contrib.celery.stamping_kombu import KombuMessage, KombuStamp
from pgnotifier.contrib.celery.targets import CeleryTarget


class Carrier(ABC):
    """Sends messages to the broker over one producer, in order.

    Attributes:
        chunk: The maximum number of messages to send before waiting for the broker.
        takes_many: Whether `add_all` takes what `press_all` of its stamps has made.
        position: How many messages have been added so far.
        refused: The errors of messages that the broker will never accept, by position. The
            publisher reports them and empties it.
    """

    chunk: ClassVar[int] = 500
    takes_many: ClassVar[bool] = False

    def __init__(self, producer: Any) -> None:
        self.producer = producer
        self.position = 0
        self.refused: dict[int, Exception] = {}

    @contextmanager
    def watch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Record, while Celery publishes a message, what a stamp needs to know about it."""
        yield []

    @abstractmethod
    def make_stamp(self, like: Published, target: CeleryTarget) -> CeleryStamp:
        """Make the stamp of a message.

        Raises:
            UnstampableError: Messages like this one can't be stamped.
        """

    @abstractmethod
    def add(self, message: Any, task_id: str | None = None) -> None:
        """Add a stamped message, and send it now or later.

        Args:
            message: What the stamp has made.
            task_id: The task's id, by which the broker may return the message.
        """

    def add_all(self, messages: Sequence[Any]) -> None:
        """Add stamped messages that are all sent later. Only for carriers with `takes_many`."""
        raise NotImplementedError

    def send(self) -> None:  # noqa: B027 - there is nothing to do where `add` sends
        """Send the added messages, so that messages that Celery publishes come after them."""

    def settle(self) -> None:
        """Send the added messages, and wait until the broker has acknowledged all of them.

        Raises:
            Exception: The broker didn't acknowledge. The type depends on its client.
        """
        self.send()

    @abstractmethod
    def has_settled(self, first: int, last: int) -> bool:
        """Return whether the broker has acknowledged the messages first + 1 to last."""

    def drop(self) -> None:  # noqa: B027
        """Discard the added messages that aren't sent yet."""


class KombuCarrier(Carrier):
    """Publishes messages one by one, with kombu's transport for the broker."""

    def make_stamp(self, like: Published, target: CeleryTarget) -> KombuStamp:
        """Make the stamp of a message."""
        return KombuStamp(like, target)

    def add(self, message: KombuMessage, task_id: str | None = None) -> None:  # noqa: ARG002
        """Publish a message."""
        self.producer.publish(message.body, **message.settings)

    def has_settled(self, first: int, last: int) -> bool:  # noqa: ARG002
        """Return True: publishing them was synchronous."""
        return True
