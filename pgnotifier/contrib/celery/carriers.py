"""Carriers: how stamped messages get into the broker, and when it has acknowledged them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.stamping import CeleryStamp
from pgnotifier.contrib.celery.stamping_kombu import KombuMessage, KombuStamp
from pgnotifier.contrib.celery.targets import CeleryTarget


class Carrier(ABC):
    """Takes messages to the broker over one producer, in order.

    Attributes:
        chunk: The most messages after which to wait for the broker.
        position: How many messages it was given so far.
        refused: By position, why the broker will never take a message; the publisher empties it.
    """

    chunk: ClassVar[int] = 500

    def __init__(self, producer: Any) -> None:
        self.producer = producer
        self.position = 0
        self.refused: dict[int, Exception] = {}

    @contextmanager
    def watch(self) -> Iterator[list[tuple[Any, Any]]]:
        """Look on while Celery publishes a message, and take down what a stamp needs."""
        yield []

    @abstractmethod
    def make_stamp(self, like: Published, target: CeleryTarget) -> CeleryStamp:
        """Make the stamp of a message.

        Raises:
            UnstampableError: It can't be one.
        """

    @abstractmethod
    def add(self, message: Any) -> None:
        """Take a stamped message, and send it now or later."""

    def send(self) -> None:  # noqa: B027 - nothing was taken where `add` sends
        """Send what was taken, so that what others publish now comes after it."""

    def settle(self) -> None:
        """Send what was taken, and wait until the broker has acknowledged it all.

        Raises:
            Exception: It doesn't; of whatever type its client raises.
        """
        self.send()

    @abstractmethod
    def has_settled(self, first: int, last: int) -> bool:
        """Tell whether the broker has the messages after one position, up to another."""

    def drop(self) -> None:  # noqa: B027
        """Forget what was taken and isn't sent yet."""


class KombuCarrier(Carrier):
    """Publishes messages one by one, with the transport that kombu has for the broker."""

    def make_stamp(self, like: Published, target: CeleryTarget) -> KombuStamp:
        """Make the stamp of a message."""
        return KombuStamp(like, target)

    def add(self, message: KombuMessage) -> None:
        """Publish a message."""
        self.producer.publish(message.body, **message.settings)

    def has_settled(self, first: int, last: int) -> bool:  # noqa: ARG002
        """Tell that the broker has them: they have been published."""
        return True
