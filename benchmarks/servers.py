"""The servers of a run. Each is started when it is first used, and shared by later benchmarks."""

from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import Self

from pgnotifier.testing import (
    PostgresServer,
    RabbitServer,
    ServerNotInstalledError,
    ValkeyServer,
)


class Servers:
    """Private servers, which end with the `with` block."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    @cached_property
    def dsn(self) -> str:
        """A database of PostgreSQL."""
        server = self._stack.enter_context(PostgresServer())
        return self._stack.enter_context(server.database())

    @cached_property
    def durable_dsn(self) -> str:
        """A database of a second PostgreSQL, which waits for the disk as servers usually do."""
        settings = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "4GB"}
        server = self._stack.enter_context(PostgresServer(settings=settings))
        return self._stack.enter_context(server.database())

    @cached_property
    def redis_url(self) -> str:
        """Valkey, which speaks the protocol of Redis."""
        return self._stack.enter_context(ValkeyServer()).url

    @cached_property
    def amqp_url(self) -> str | None:
        """RabbitMQ, if it is installed."""
        try:
            return self._stack.enter_context(RabbitServer()).url
        except ServerNotInstalledError as missing:
            print(f"RabbitMQ is left out: {missing}\n")
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
