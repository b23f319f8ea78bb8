"""Install the durable log, and upgrade it, in migrations of Alembic.

    import pgnotifier.contrib.alembic  # in env.py or in the revision

    def upgrade():
        op.install_pgnotifier(version=1, publishers=["web"], listeners=["worker"])

    def downgrade():
        op.uninstall_pgnotifier()

Each revision pins a version of the log, so that a database that is made years later gets the same
from it; a later revision upgrades: `op.upgrade_pgnotifier(since=1, version=2)`. The operations work
online with every driver, and offline (`--sql`).
"""

from pgnotifier.contrib import naming_extra

with naming_extra("alembic"):
    from pgnotifier.contrib.alembic.autogenerate import include_name
    from pgnotifier.contrib.alembic.operations import (
        InstallLogOp,
        UninstallLogOp,
        UpgradeLogOp,
    )

__all__ = ["InstallLogOp", "UninstallLogOp", "UpgradeLogOp", "include_name"]
