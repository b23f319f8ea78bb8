"""Patience: a connection that gives up waiting for an answer."""

from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection with queries that fail if the server doesn't answer.

    The kernel notices a network that is gone. It doesn't notice a server that hangs, or something
    in between that takes what is sent, and forgets it.

    Attributes:
        patience: The seconds that a query may take. Default: no limit.
    """

    patience: float | None = None

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Wait for a query, but not for ever.

        Raises:
            psycopg.OperationalError: It takes too long. The connection is closed.
        """
        if self.patience is None:
            return super().wait(gen, *args, **kwargs)
        return super().wait(_bound(gen, self.patience), *args, **kwargs)


def _bound(gen: PQGen[T], seconds: float) -> PQGen[T]:
    """Do what a generator of the driver does, until its time is over."""
    deadline = monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and monotonic() >= deadline:
                raise psycopg.OperationalError(f"no answer within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result
