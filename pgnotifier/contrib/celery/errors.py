"""Define the errors of tasks that run in a worker, and of messages that wait in an outbox."""

from pgnotifier.errors import PgNotifierError


class CallbackNotFoundError(PgNotifierError, LookupError):
    """A worker has no callback for the subscription id on the notification's channel."""


class MessageFormatError(PgNotifierError, ValueError):
    """An entry of the log isn't a message for a worker, or a message can't be an entry."""


class MessageRefusedError(PgNotifierError, ValueError):
    """The broker will never accept a message, or has no queue for it."""


class TaskNotAllowedError(PgNotifierError, PermissionError):
    """A task was enqueued from SQL that the relay may not send."""
