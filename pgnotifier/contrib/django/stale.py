"""Close stale database connections of this thread, as Django does around a request."""

from django.db import connections


def close_stale_connections() -> None:
    """Close connections that are broken or older than `CONN_MAX_AGE`, unless in `atomic()`.

    Django's own `close_old_connections` would end the transaction of a test.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
