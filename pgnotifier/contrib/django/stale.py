"""Stale connections: those of this thread that a request would close before and after itself."""

from django.db import connections


def close_stale_connections() -> None:
    """Close connections that are broken, or past their `CONN_MAX_AGE`, outside of `atomic()`.

    Unlike Django's own `close_old_connections`, which would end the transaction of a test.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
