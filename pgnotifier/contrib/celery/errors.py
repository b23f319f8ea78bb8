"""What can go wrong in a worker."""

from pgnotifier.errors import PgNotifierError


class CallbackNotFoundError(PgNotifierError, LookupError):
    """A worker got a notification of a channel on which it has no callback for the id."""
