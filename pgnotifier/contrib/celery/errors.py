"""Define the errors of tasks that run in a worker, and of what an outbox holds."""

from pgnotifier.errors import PgNotifierError


class CallbackNotFoundError(PgNotifierError, LookupError):
    """A worker has no callback for the subscription id on the notification's channel."""


class OutboxMessageError(PgNotifierError, ValueError):
    """What an outbox holds can't be sent, now or later."""


class TaskNotAllowedError(PgNotifierError, PermissionError):
    """SQL has asked for a task that the relay may not send."""
