"""Routers: the app `audit` is in the database of that name, and all others aren't."""

from typing import Any


class AuditRouter:
    """Sends the audit's models to its database."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """Return where to read."""
        return "audit" if model._meta.app_label == "audit" else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """Return whether an app's tables belong there."""
        return (app_label == "audit") == (db == "audit")
