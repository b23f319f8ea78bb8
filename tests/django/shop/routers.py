"""A database router."""


class SecondRouter:
    """Keeps `Note` in the database `second`, and everything else in `default`."""

    def db_for_read(self, model, **hints):
        """Return the alias of the database to read from."""
        return "second" if model._meta.model_name == "note" else None

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, model_name=None, **hints):
        """Return whether a table belongs in a database."""
        if db == "lite":
            return False
        if app_label == "shop":
            return (model_name == "note") == (db == "second")
        return db == "default"
