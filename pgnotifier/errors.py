"""Every exception that pgnotifier raises.

    PgNotifierError
    ├── ArgumentTypeError        (TypeError)        a channel, id or callback of the wrong type
    ├── ChannelNameError         (ValueError)       a name that PostgreSQL can't LISTEN to
    ├── ConfigurationError       (ValueError)       parameters or settings that can't work
    ├── UnknownOptionError       (TypeError)        a subscribe() option its dispatcher doesn't know
    ├── DispatcherMismatchError  (TypeError)        a callback that its dispatcher can't run
    ├── TaskNameError            (ValueError)       a task name that is taken, or can't be one
    ├── ConnectionFailedError    (ConnectionError)  no connection could be made
    ├── ListenRefusedError       (RuntimeError)     the server answered LISTEN with an error
    ├── NotListeningError        (ConnectionError)  LISTEN succeeded, but nothing arrives
    ├── NotifyRefusedError       (RuntimeError)     the server answered NOTIFY with an error
    ├── NotLiveError             (TimeoutError)     registered, but not confirmed in time
    ├── NotifierStoppedError     (RuntimeError)     stopped while the call was waiting
    ├── BatchError               (ValueError)       a dispatcher that acknowledges a batch wrongly
    ├── PayloadEncodingError     (TypeError)        a value that no payload can carry
    └── PayloadTooLargeError     (ValueError)       a payload over 7,999 bytes

Integrations, the test servers and the demo add theirs:

    PgNotifierError
    ├── ExtraNotInstalledError   (ModuleNotFoundError)  contrib: its framework isn't installed
    ├── CallbackNotFoundError    (LookupError)      contrib.celery: no callback for a task
    ├── EmbeddingError           (UsageError)       contrib.celery: a worker that can't listen
    ├── ReceiverNotFoundError    (LookupError)      contrib.django: no receiver for a task
    ├── ServerError              (RuntimeError)     testing: a server that can't start or answer
    ├── ExternalServerError      (ServerError)      testing: a server that isn't ours to stop
    ├── ServerNotInstalledError  (LookupError)      testing: no wheel contains the server
    └── DemoError                (RuntimeError)     demo: it can't go on

Each also descends from the builtin that fits, so code that catches `ValueError` needs no
import from here. No message holds a password.
"""

from typing import Any

from pgnotifier._runtime.redaction import redact


def in_one_line(reason: object) -> str:
    """Return what a driver says in several lines, as libpq does, in one, without passwords."""
    lines = redact(reason).splitlines()
    return "; ".join(filter(None, (" ".join(line.split()) for line in lines)))


class PgNotifierError(Exception):
    """The base of every exception that pgnotifier raises."""

    def __init__(self, *args: object, **others: Any) -> None:
        """Take the message, in which passwords are hidden, and what the builtin takes besides."""
        super().__init__(*(redact(one) if isinstance(one, str) else one for one in args), **others)


class ArgumentTypeError(PgNotifierError, TypeError):
    """An argument is of a type that can't serve: a channel that isn't a str, say."""


class ChannelNameError(PgNotifierError, ValueError):
    """A channel name is empty, over 63 bytes of UTF-8, or holds what PostgreSQL refuses."""


class ConfigurationError(PgNotifierError, ValueError):
    """Connection parameters or settings that can't work, found before any connection."""


class UnknownOptionError(PgNotifierError, TypeError):
    """`subscribe()` was given an option that the subscription's dispatcher doesn't have."""


class DispatcherMismatchError(PgNotifierError, TypeError):
    """The dispatcher can't run this callback: a Celery task given to an inline one, say."""


class TaskNameError(PgNotifierError, ValueError):
    """Two subscriptions would share a task name, or an id makes no usable one."""


class ConnectionFailedError(PgNotifierError, ConnectionError):
    """No connection to PostgreSQL could be made; the message holds the server's reason."""


class ListenRefusedError(PgNotifierError, RuntimeError):
    """The server answered LISTEN with an error; the channels were not added."""


class NotListeningError(PgNotifierError, ConnectionError):
    """The server took LISTEN, but notifications don't arrive: there is a pooler in between."""


class NotifyRefusedError(PgNotifierError, RuntimeError):
    """The server answered NOTIFY with an error: its queue is full, or a right is missing."""


class NotLiveError(PgNotifierError, TimeoutError):
    """The change is registered, but the server has not confirmed it in time.

    It becomes live by itself as soon as the connection is back.
    """


class NotifierStoppedError(PgNotifierError, RuntimeError):
    """The notifier was stopped while the call was waiting for the server."""


class BatchError(PgNotifierError, ValueError):
    """A dispatcher acknowledged more of a batch than is left, or returned before it was done."""


class PayloadEncodingError(PgNotifierError, TypeError):
    """The value can't be written as a payload that decodes to the same value."""


class PayloadTooLargeError(PgNotifierError, ValueError):
    """The payload is over 7,999 bytes, the most that NOTIFY takes."""
