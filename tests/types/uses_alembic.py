"""Migrations of Alembic, as a user writes them."""

from alembic import context
from alembic.operations import Operations

from pgnotifier.contrib.alembic import InstallLogOp, UninstallLogOp, UpgradeLogOp, include_name


def configure() -> None:
    context.configure(dialect_name="postgresql", include_schemas=True, include_name=include_name)


def upgrade(op: Operations) -> None:
    InstallLogOp.install_pgnotifier(op, version=1, publishers=["web"], listeners=["worker"])
    InstallLogOp.install_pgnotifier(op, version=3, enqueuers=["web"])
    UpgradeLogOp.upgrade_pgnotifier(op, since=1, version=2)


def downgrade(op: Operations) -> None:
    UninstallLogOp.uninstall_pgnotifier(op)
