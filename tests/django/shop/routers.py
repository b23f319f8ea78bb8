"""What is where."""


class SecondRouter:
    """Has `Note` in the database `second`."""

    def db_for_read(self, model, **hints):
        """Return where to read."""
        return "second" if model._meta.model_name == "note" else None

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, model_name=None, **hints):
        """Return whether a table belongs there."""
        if db == "lite":
            return False
        if app_label == "shop":
            return (model_name == "note") == (db == "second")
        return db == "default"
