"""Patience: a connection that gives up waiting for an answer."""

import selectors
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection with queries that fail if the server is silent.

    The kernel notices a network that is gone. It doesn't notice a server that hangs, or something
    in between that takes what is sent, and forgets it.

    Attributes:
        patience: The seconds for which nothing may come from the server during a query, nor be
            taken by it. An entry of 64 MiB may take longer as a whole. Default: no limit.
    """

    patience: float | None = None

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Wait for a query, but not for ever.

        Raises:
            psycopg.OperationalError: The server is silent. The connection is closed.
        """
        if self.patience is None:
            return super().wait(gen, *args, **kwargs)
        result: T = self._wait_impatiently(self.patience, gen)
        return result

    def _wait_impatiently(self, patience: float, gen: Any) -> Any:
        """Do what a generator of the driver does: it yields what to wait for on the socket.

        The driver's own functions resume it only when the socket is ready, before psycopg 3.3.
        """
        try:
            wanted, deadline = next(gen), monotonic() + patience
            with selectors.DefaultSelector() as selector:
                selector.register(self.fileno(), wanted)
                while True:
                    ready = selector.select(max(0.0, deadline - monotonic()))
                    if ready:
                        wanted, deadline = gen.send(ready[0][1]), monotonic() + patience
                        selector.modify(self.fileno(), wanted)
                    elif monotonic() >= deadline:
                        self.close()
                        raise psycopg.OperationalError(f"no answer within {patience:g} s")
        except StopIteration as end:
            return end.value
