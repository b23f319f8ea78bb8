"""Define the operations of revisions: install the log, upgrade it, and drop it.

https://alembic.sqlalchemy.org/en/latest/api/operations.html#operation-plugins
"""

from collections.abc import Sequence
from typing import Any

from alembic.operations import MigrateOperation, Operations

from pgnotifier._log.installing import (
    Part,
    grant_script,
    script,
    statement,
    uninstall_script,
)
from pgnotifier._log.versions import as_statement


class _Granting(MigrateOperation):
    """Brings the log to a version, and grants rights to roles.

    Attributes:
        since: The version from which on.
        version: The version to install.
        grants: Which roles get which rights.
    """

    def __init__(
        self,
        since: int,
        version: int,
        publishers: Sequence[str],
        listeners: Sequence[str],
        enqueuers: Sequence[str] = (),
        workers: Sequence[str] = (),
    ) -> None:
        self.since = since
        self.version = version
        parts: dict[Part, Sequence[str]] = {
            "publisher": publishers,
            "listener": listeners,
            "enqueuer": enqueuers,
            "worker": workers,
        }
        self.grants = [
            grant_script(role, part, version) for part, roles in parts.items() for role in roles
        ]


@Operations.register_operation("install_pgnotifier")
class InstallLogOp(_Granting):
    """Install a version of the log."""

    @classmethod
    def install_pgnotifier(
        cls,
        operations: Operations,
        *,
        version: int,
        publishers: Sequence[str] = (),
        listeners: Sequence[str] = (),
        enqueuers: Sequence[str] = (),
        workers: Sequence[str] = (),
    ) -> None:
        """Install the schema `pgnotifier`. One that is there already is upgraded at most.

        Args:
            operations: `alembic.op`.
            version: The version to install.
            publishers: Roles that may publish.
            listeners: Roles that may read durable subscriptions and move them.
            enqueuers: Roles that may publish and enqueue tasks, from version 3 on.
            workers: Roles that may note what they have done once, from version 3 on.

        Raises:
            ConfigurationError: There is no such version, or it doesn't have a part yet.
        """
        operations.invoke(cls(0, version, publishers, listeners, enqueuers, workers))

    def reverse(self) -> MigrateOperation:
        """Return the operation that drops it."""
        return UninstallLogOp()


@Operations.register_operation("upgrade_pgnotifier")
class UpgradeLogOp(_Granting):
    """Upgrade the log from one version to another."""

    @classmethod
    def upgrade_pgnotifier(
        cls,
        operations: Operations,
        *,
        since: int,
        version: int,
        publishers: Sequence[str] = (),
        listeners: Sequence[str] = (),
        enqueuers: Sequence[str] = (),
        workers: Sequence[str] = (),
    ) -> None:
        """Upgrade the schema `pgnotifier`. There is no way back, and no need for one.

        An older pgnotifier works with a newer schema, so `downgrade()` doesn't have to do anything.

        Args:
            operations: `alembic.op`.
            since: The version that an earlier revision has installed.
            version: The version to install.
            publishers: More roles that may publish. Those that have rights keep them.
            listeners: More roles that may read durable subscriptions and move them.
            enqueuers: More roles that may publish and enqueue tasks, from version 3 on.
            workers: More roles that may note what they have done once, from version 3 on.

        Raises:
            ConfigurationError: There is no such version, it isn't newer, or it doesn't have a part
                yet.
        """
        operations.invoke(cls(since, version, publishers, listeners, enqueuers, workers))


@Operations.register_operation("uninstall_pgnotifier")
class UninstallLogOp(MigrateOperation):
    """Drop the log."""

    @classmethod
    def uninstall_pgnotifier(cls, operations: Operations) -> None:
        """Drop the schema `pgnotifier`, with all entries and positions.

        Args:
            operations: `alembic.op`.
        """
        operations.invoke(cls())


@Operations.implementation_for(InstallLogOp)
@Operations.implementation_for(UpgradeLogOp)
def _bring(operations: Operations, operation: _Granting) -> None:
    """Print the statements, or execute what of them is left to do."""
    if operations.migration_context.as_sql:
        _print(operations, script(operation.since, operation.version), *operation.grants)
    else:
        grants = map(as_statement, operation.grants)
        _execute(operations, statement(operation.since, operation.version), *grants)


@Operations.implementation_for(UninstallLogOp)
def _drop(operations: Operations, _: UninstallLogOp) -> None:
    execute_or_print(operations, uninstall_script())


def execute_or_print(operations: Operations, statement: str) -> None:
    """Execute a statement as it is; with `--sql`, print it."""
    act = _print if operations.migration_context.as_sql else _execute
    act(operations, statement)


def _print(operations: Operations, *scripts: str) -> None:
    """Print statements as they are: `op.execute` would look for parameters in them."""
    for one in scripts:
        operations.migration_context.impl.static_output(one.strip())


def _execute(operations: Operations, *statements: str) -> None:
    """Execute statements without parameters, each on its own, as asyncpg takes no more."""
    bind: Any = operations.get_bind()
    for one in statements:
        bind.exec_driver_sql(one, execution_options={"no_parameters": True})
