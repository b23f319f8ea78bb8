"""Migrations of Alembic, as a user writes them."""

from alembic import context
from alembic.operations import Operations
from sqlalchemy import MetaData, Table

from pgnotifier.contrib.alembic import (
    CreateTriggerOp,
    DropTriggerOp,
    InstallLogOp,
    UninstallLogOp,
    UpgradeLogOp,
    declare_trigger,
    include_name,
)

orders = Table("orders", MetaData())
declare_trigger(orders, "orders", on=["update"], columns=["status"], per="statement")


def configure() -> None:
    context.configure(dialect_name="postgresql", include_schemas=True, include_name=include_name)


def upgrade(op: Operations) -> None:
    InstallLogOp.install_pgnotifier(op, version=1, publishers=["web"], listeners=["worker"])
    InstallLogOp.install_pgnotifier(op, version=3, enqueuers=["web"])
    UpgradeLogOp.upgrade_pgnotifier(op, since=1, version=2)
    CreateTriggerOp.create_pgnotifier_trigger(op, "orders", "orders", payload="full", durable=True)


def downgrade(op: Operations) -> None:
    DropTriggerOp.drop_pgnotifier_trigger(op, "orders", "orders", schema="shop")
    UninstallLogOp.uninstall_pgnotifier(op)
