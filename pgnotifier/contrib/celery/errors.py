"""Define the errors of tasks that run in a worker."""

from pgnotifier.errors import PgNotifierError


class CallbackNotFoundError(PgNotifierError, LookupError):
    """A worker has no callback for the subscription id on the notification's channel."""
