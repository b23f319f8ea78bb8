"""Install the durable log, and create triggers, in migrations of Alembic.

    import pgnotifier.contrib.alembic  # in env.py or in the revision

    def upgrade():
        op.install_pgnotifier(version=1, publishers=["web"], listeners=["worker"])

    def downgrade():
        op.uninstall_pgnotifier()

Each revision pins a version of the log, so that a database that is made years later gets the same
from it; a later revision upgrades: `op.upgrade_pgnotifier(since=1, version=2)`. The operations work
online with every driver, and offline (`--sql`).

Triggers that notify of changed rows are declared on tables, and autogenerate finds them:

    declare_trigger(orders, "orders", on=["update"], columns=["status"])
    op.create_pgnotifier_trigger("orders", "orders", on=["update"], columns=["status"])
    op.drop_pgnotifier_trigger("orders", "orders")
"""

from pgnotifier.contrib import naming_extra

with naming_extra("alembic"):
    from pgnotifier.contrib.alembic.autogenerate import include_name
    from pgnotifier.contrib.alembic.declared import declare_trigger
    from pgnotifier.contrib.alembic.operations import (
        InstallLogOp,
        UninstallLogOp,
        UpgradeLogOp,
    )
    from pgnotifier.contrib.alembic.trigger_operations import CreateTriggerOp, DropTriggerOp

__all__ = [
    "CreateTriggerOp",
    "DropTriggerOp",
    "InstallLogOp",
    "UninstallLogOp",
    "UpgradeLogOp",
    "declare_trigger",
    "include_name",
]
