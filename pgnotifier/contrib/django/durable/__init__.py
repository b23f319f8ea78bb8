"""Have `migrate` install the durable log: add this package to INSTALLED_APPS.

A project that prefers migrations of its own puts the operation `InstallLog` there instead, and
`UpgradeLog` for each later version.
"""

from typing import Any

from django.db import router
from django.db.migrations.operations.base import Operation

from pgnotifier._log.installing import VERSION, install, script, uninstall

__all__ = ["InstallLog", "UpgradeLog"]


class InstallLog(Operation):
    """Install the schema `pgnotifier`, or upgrade it. The reverse drops it, with all entries.

    Database routers decide where, by `allow_migrate(db, app_label)`. Databases other than
    PostgreSQL are left alone.
    """

    reduces_to_sql = True
    reversible = True

    def __init__(self, version: int = VERSION) -> None:
        """Make the operation.

        Args:
            version: The version that `sqlmigrate` prints the statements for. `migrate` installs
                the latest one. Default: the latest.
        """
        self.version = version

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change no model."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Install the schema; for `sqlmigrate`, print the statements."""
        if not _belongs(app_label, schema_editor):
            return
        if schema_editor.collect_sql:
            schema_editor.execute(script(0, self.version), params=None)
        else:
            install(_open(schema_editor))

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Drop the schema."""
        if not _belongs(app_label, schema_editor):
            return
        if schema_editor.collect_sql:
            schema_editor.execute("DROP SCHEMA pgnotifier CASCADE", params=None)
        else:
            uninstall(_open(schema_editor))

    def describe(self) -> str:
        """Return what it does, for the output of `migrate` and `makemigrations`."""
        return f"Install version {self.version} of pgnotifier's durable log"

    @property
    def migration_name_fragment(self) -> str:
        """A part of a migration's name."""
        return "durable_log"


class UpgradeLog(InstallLog):
    """Upgrade the schema to a version. The reverse does nothing: older programs can use it too."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Upgrade the schema; for `sqlmigrate`, print the statements."""
        if _belongs(app_label, schema_editor) and schema_editor.collect_sql:
            schema_editor.execute(script(self.version - 1, self.version), params=None)
        else:
            super().database_forwards(app_label, schema_editor, from_state, to_state)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Do nothing."""

    def describe(self) -> str:
        """Return what it does, for the output of `migrate` and `makemigrations`."""
        return f"Upgrade pgnotifier's durable log to version {self.version}"

    @property
    def migration_name_fragment(self) -> str:
        """A part of a migration's name."""
        return f"durable_log_{self.version}"


def _belongs(app_label: str, schema_editor: Any) -> bool:
    connection = schema_editor.connection
    return connection.vendor == "postgresql" and bool(
        router.allow_migrate(connection.alias, app_label)
    )


def _open(schema_editor: Any) -> Any:
    """Return the driver's connection, in the migration's transaction."""
    connection = schema_editor.connection
    if connection.in_atomic_block:
        # psycopg begins a transaction with the first statement. The installer would begin, and
        # commit, one of its own instead.
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    else:
        connection.ensure_connection()
    return connection.connection
