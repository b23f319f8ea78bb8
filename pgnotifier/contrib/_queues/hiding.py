"""Hide the texts of errors that contain arguments, before they are logged or kept as a reason."""

from traceback import format_exception
from typing import TypeVar

from pgnotifier._log.outbox_redaction import mentions

E = TypeVar("E", bound=Exception)


def without_arguments(exc: E, payload: str, kind: type[E], what: str) -> E:
    """Return an error that may be logged: other code may put arguments into its own.

    Args:
        exc: An error.
        payload: The message in the outbox that it is about.
        kind: What to return instead, if the error or one that it comes from contains an argument.
        what: What the message is: a task, a job.
    """
    # The lines of the code are left out, as they contain no values.
    if not mentions(payload, "".join(format_exception(exc, limit=0))):
        return exc
    name = type(exc).__name__
    return kind(f"{name}; its text is hidden, as it contains arguments of the {what}")
