"""Define the errors of jobs that wait in an outbox."""

from pgnotifier.errors import PgNotifierError


class JobFormatError(PgNotifierError, ValueError):
    """An entry of the log isn't a job, or a job can't be an entry."""


class JobRefusedError(PgNotifierError, ValueError):
    """Redis or RQ will never accept a job."""


class JobNotAllowedError(PgNotifierError, PermissionError):
    """A job was enqueued from SQL with a function that the relay may not send."""
