"""What the tests of the contract share: a notifier, a sender, and waiting for calls."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgnotifier.dispatch import Dispatcher, Subscription
from pgnotifier.notification import Notification
from pgnotifier.notifier import Notifier
from pgnotifier.testing.contract.calls import CALLS, Call

TIMEOUT = 60.0
"""Seconds to wait for anything."""


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class ContractSetup:
    """What a subclass of the contract may override, the fixtures, and waiting.

    Attributes:
        ordered: Whether the calls of one subscription are made in order.
        many: How many notifications to send before stopping. Choose fewer for slow workers.
    """

    ordered = True
    many = 500

    def adapt(self, fn: Callable[..., None]) -> Any:
        """Return the object to subscribe, so that this function of the contract is called."""
        return fn

    def work(self) -> None:
        """Execute what was enqueued, unless a worker is running anyway."""

    def calls(self) -> list[Call]:
        """Return the calls of `first`, `second` and `failing`, in order.

        Override it for workers in other processes, which have to record the calls elsewhere.
        """
        return CALLS

    # --- fixtures ---

    @pytest.fixture
    def errors(self) -> list[BaseException]:
        """Return the list of errors that were reported to `on_error`."""
        return []

    @pytest.fixture
    def notifier(
        self, dispatcher: Dispatcher, pgnotifier_dsn: str, errors: list[BaseException]
    ) -> Iterator[Notifier]:
        """Yield a notifier with the dispatcher. It isn't started yet."""
        CALLS.clear()

        def report(exc: BaseException, _: Subscription, __: Notification) -> None:
            errors.append(exc)

        notifier = Notifier(pgnotifier_dsn, dispatcher=dispatcher, on_error=report)
        yield notifier
        notifier.stop(TIMEOUT)

    @pytest.fixture
    def send(self, pgnotifier_dsn: str) -> Iterator[Callable[..., int]]:
        """Yield a function that sends texts on a channel, and returns its session's pid."""
        with psycopg.connect(pgnotifier_dsn) as connection:

            def send(channel: str, *texts: str) -> int:
                with connection.transaction():
                    for text in texts:
                        connection.execute("SELECT pg_catalog.pg_notify(%s, %s)", (channel, text))
                return connection.info.backend_pid

            yield send

    # --- waiting ---

    def wait_for(self, count: int) -> list[Call]:
        """Wait for this many calls, check that no more follow, and return them."""
        deadline = time.monotonic() + TIMEOUT
        while len(found := self.worked()) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} calls: {found}"
            time.sleep(0.02)
        time.sleep(0.1)
        found = self.worked()
        assert len(found) == count, f"{len(found)} calls instead of {count}: {found}"
        return found

    def worked(self) -> list[Call]:
        """Execute what was enqueued, and return the calls so far."""
        self.work()
        return list(self.calls())
