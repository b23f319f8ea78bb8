"""Define the operations of revisions that create and drop triggers.

https://alembic.sqlalchemy.org/en/latest/api/operations.html#operation-plugins
"""

from typing import Any

from alembic.operations import MigrateOperation, Operations

from pgnotifier._triggers.statements import create_sql
from pgnotifier.contrib.alembic.operations import execute_or_print
from pgnotifier.errors import ArgumentTypeError
from pgnotifier.triggers import Trigger


@Operations.register_operation("create_pgnotifier_trigger")
class CreateTriggerOp(MigrateOperation):
    """Create a trigger, or replace the one of its name."""

    def __init__(self, trigger: Trigger, former: Trigger | None = None) -> None:
        """Create the operation.

        Args:
            trigger: The trigger.
            former: What it replaces.
        """
        self.trigger = trigger
        self.former = former

    @classmethod
    def create_pgnotifier_trigger(
        cls, operations: Operations, table: str, channel: str, **options: Any
    ) -> None:  # Alembic makes a function of the signature, and doesn't know Unpack
        """Create a trigger that notifies of changed rows, or replace the one of its name.

        Args:
            operations: `alembic.op`.
            table: The name of the table.
            channel: The channel to notify.
            options: As for `pgnotifier.triggers.Trigger`.

        Raises:
            TriggerError: The arguments make no trigger.
        """
        operations.invoke(cls(Trigger(table, channel, **options)))

    def reverse(self) -> MigrateOperation:
        """Return the operation that drops it, or creates again what it has replaced."""
        if self.former is not None:
            return CreateTriggerOp(self.former, self.trigger)
        return DropTriggerOp(self.trigger)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` shows."""
        return ("create_pgnotifier_trigger", self.trigger)


@Operations.register_operation("drop_pgnotifier_trigger")
class DropTriggerOp(MigrateOperation):
    """Drop a trigger."""

    def __init__(self, trigger: Trigger) -> None:
        """Create the operation.

        Args:
            trigger: The trigger, with all that is needed to create it again.
        """
        self.trigger = trigger

    @classmethod
    def drop_pgnotifier_trigger(
        cls,
        operations: Operations,
        table: str,
        channel: str | None = None,
        *,
        name: str = "",
        schema: str | None = None,
    ) -> None:
        """Drop a trigger with its function, if it is there.

        Args:
            operations: `alembic.op`.
            table: The name of the table.
            channel: The channel, for a trigger without a name of its own.
            name: The name of the trigger.
            schema: The schema of the table.

        Raises:
            ArgumentTypeError: Neither a channel nor a name is given.
        """
        if channel is None and not name:
            raise ArgumentTypeError("drop_pgnotifier_trigger needs a channel or a name")
        operations.invoke(cls(Trigger(table, channel or "-", name=name, schema=schema)))

    def reverse(self) -> MigrateOperation:
        """Return the operation that creates it again."""
        return CreateTriggerOp(self.trigger)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic check` shows."""
        return ("drop_pgnotifier_trigger", self.trigger)


@Operations.implementation_for(CreateTriggerOp)
def _create(operations: Operations, operation: CreateTriggerOp) -> None:
    execute_or_print(operations, create_sql(operation.trigger, "alembic"))


@Operations.implementation_for(DropTriggerOp)
def _drop(operations: Operations, operation: DropTriggerOp) -> None:
    execute_or_print(operations, operation.trigger.drop_sql())
