"""Define the operations of migrations that install the durable log and upgrade it."""

from typing import Any

from django.db import router
from django.db.migrations.operations.base import Operation

from pgnotifier._log.installing import install, script, uninstall, uninstall_script


class _LogOperation(Operation):
    """Brings the schema `pgnotifier` to a version.

    Database routers decide where, by `allow_migrate(db, app_label)`. Databases other than
    PostgreSQL are left alone.
    """

    reduces_to_sql = True
    reversible = True
    since: int
    version: int

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change no model."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Install what is missing; for `sqlmigrate`, print the statements."""
        if not belongs(app_label, schema_editor.connection):
            return
        if schema_editor.collect_sql:
            schema_editor.execute(script(self.since, self.version), params=None)
        else:
            install(open_driver(schema_editor.connection), self.version)


class InstallLog(_LogOperation):
    """Install a version of the schema `pgnotifier`. The reverse drops it, with all entries."""

    since = 0

    def __init__(self, version: int) -> None:
        """Make the operation.

        Args:
            version: The version to install, even if there are newer ones: see `UpgradeLog`.
        """
        self.version = version

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Drop the schema."""
        if not belongs(app_label, schema_editor.connection):
            return
        if schema_editor.collect_sql:
            schema_editor.execute(uninstall_script(), params=None)
        else:
            uninstall(open_driver(schema_editor.connection))

    def reduce(self, operation: Operation, app_label: str) -> Any:
        """Become one with an upgrade that follows, in `squashmigrations`."""
        if isinstance(operation, UpgradeLog) and operation.since == self.version:
            return [InstallLog(operation.version)]
        return super().reduce(operation, app_label)

    def describe(self) -> str:
        """Return what it does, for the output of `migrate` and `makemigrations`."""
        return f"Install version {self.version} of pgnotifier's durable log"

    @property
    def migration_name_fragment(self) -> str:
        """A part of a migration's name."""
        return "durable_log"


class UpgradeLog(_LogOperation):
    """Upgrade the schema to a version. The reverse does nothing: older programs can use it, too."""

    def __init__(self, version: int, since: int | None = None) -> None:
        """Make the operation.

        Args:
            version: The version to install.
            since: The version that an earlier migration has installed. Default: the one before.
        """
        self.version = version
        self.since = version - 1 if since is None else since

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Do nothing."""

    def reduce(self, operation: Operation, app_label: str) -> Any:
        """Become one with an upgrade that follows, in `squashmigrations`."""
        if isinstance(operation, UpgradeLog) and operation.since == self.version:
            return [UpgradeLog(operation.version, self.since)]
        return super().reduce(operation, app_label)

    def describe(self) -> str:
        """Return what it does, for the output of `migrate` and `makemigrations`."""
        return f"Upgrade pgnotifier's durable log to version {self.version}"

    @property
    def migration_name_fragment(self) -> str:
        """A part of a migration's name."""
        return f"durable_log_{self.version}"


def belongs(app_label: str, connection: Any) -> bool:
    """Return whether an app's migrations may install the log in a database."""
    return connection.vendor == "postgresql" and bool(
        router.allow_migrate(connection.alias, app_label)
    )


def open_driver(connection: Any) -> Any:
    """Return the driver's connection, in the transaction that is open."""
    if connection.in_atomic_block:
        # psycopg begins a transaction with the first statement. The installer would begin, and
        # commit, one of its own instead.
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    else:
        connection.ensure_connection()
    return connection.connection
