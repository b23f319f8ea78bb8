"""A database router: the app `audit` uses the database `audit`, all others the default one."""

from typing import Any


class AuditRouter:
    """Sends the audit's models to its database."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """Return the database to read from."""
        return "audit" if model._meta.app_label == "audit" else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """Return whether an app's tables belong in a database."""
        return (app_label == "audit") == (db == "audit")
