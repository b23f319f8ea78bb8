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
    ├── OrderRefusedError        (PermissionError)  a listener that doesn't do what it was asked for
    ├── UnknownSubscriptionError (LookupError)      no position in the log for this subscription
    ├── NotLiveError             (TimeoutError)     registered, but not confirmed in time
    ├── NotifierStoppedError     (RuntimeError)     stopped while the call was waiting
    ├── BatchError               (ValueError)       a dispatcher that acknowledges a batch wrongly
    ├── LogNotInstalledError     (LookupError)      no durable log in the database, or an old one
    ├── LogFullError             (RuntimeError)     the durable log has reached its quota
    ├── LogRefusedError          (RuntimeError)     the server refused what the durable log needs
    ├── AlreadyDoneError         (RuntimeError)     what is done once has been done already
    ├── TriggerError             (ValueError)       a trigger that can't be created as declared
    ├── EntryKeyError            (ValueError)       a key that an entry of the log can't have
    ├── PayloadEncodingError     (TypeError)        a value that can't be sent as a payload
    └── PayloadTooLargeError     (ValueError)       a payload over 7,999 bytes, or 64 MiB

Integrations, the test servers and the demo add theirs:

    PgNotifierError
    ├── ExtraNotInstalledError   (ModuleNotFoundError)  contrib: its framework isn't installed
    ├── CallbackNotFoundError    (LookupError)      contrib.celery: no callback for a task
    ├── MessageFormatError       (ValueError)       contrib.celery: no message for a worker
    ├── MessageRefusedError      (ValueError)       contrib.celery: the broker won't accept it
    ├── TaskNotAllowedError      (PermissionError)  contrib.celery: SQL may not ask for this task
    ├── EmbeddingError           (UsageError)       contrib.celery: a worker that can't listen
    ├── JobFormatError           (ValueError)       contrib.rq: no job, or one that can't be kept
    ├── JobRefusedError          (ValueError)       contrib.rq: Redis or RQ won't accept it
    ├── JobNotAllowedError       (PermissionError)  contrib.rq: SQL may not ask for this function
    ├── ReceiverNotFoundError    (LookupError)      contrib.django: no receiver for a task
    ├── ServerError              (RuntimeError)     testing: a server that can't start or answer
    ├── ExternalServerError      (ServerError)      testing: a server that isn't ours to stop
    ├── ServerNotInstalledError  (LookupError)      testing: no wheel contains the server
    └── DemoError                (RuntimeError)     demo: it can't go on

Each also descends from the builtin exception in brackets, so code that catches `ValueError`
doesn't have to import anything from here. No message contains a password.
"""

from typing import Any

from pgnotifier._runtime.redaction import redact


def in_one_line(reason: object) -> str:
    """Return the message of a driver in one line, without passwords; libpq's have several lines."""
    lines = redact(reason).splitlines()
    return "; ".join(filter(None, (" ".join(line.split()) for line in lines)))


class PgNotifierError(Exception):
    """The base of every exception that pgnotifier raises."""

    def __init__(self, *args: object, **others: Any) -> None:
        """Hide passwords in the message, and pass other arguments on to the builtin exception."""
        super().__init__(*(redact(one) if isinstance(one, str) else one for one in args), **others)


class ArgumentTypeError(PgNotifierError, TypeError):
    """An argument has the wrong type: a channel that isn't a str, for example."""


class ChannelNameError(PgNotifierError, ValueError):
    """A channel name is empty, over 63 bytes of UTF-8, or contains what PostgreSQL refuses."""


class ConfigurationError(PgNotifierError, ValueError):
    """Connection parameters or settings are invalid. This is found before connecting."""


class UnknownOptionError(PgNotifierError, TypeError):
    """`subscribe()` was given an option that the subscription's dispatcher doesn't have."""


class DispatcherMismatchError(PgNotifierError, TypeError):
    """The dispatcher can't run the callback: a Celery task with an inline one, for example."""


class TaskNameError(PgNotifierError, ValueError):
    """Two subscriptions would share a task name, or no valid name can be made from an id."""


class ConnectionFailedError(PgNotifierError, ConnectionError):
    """Connecting to PostgreSQL failed. The message contains the server's reason."""


class ListenRefusedError(PgNotifierError, RuntimeError):
    """The server answered LISTEN with an error. The channels were not added."""


class NotListeningError(PgNotifierError, ConnectionError):
    """There is a pooler in between: LISTEN succeeded, but notifications don't arrive."""


class NotifyRefusedError(PgNotifierError, RuntimeError):
    """The server answered NOTIFY with an error: its queue is full, or a privilege is missing."""


class OrderRefusedError(PgNotifierError, PermissionError):
    """A running listener refused to mute or unmute something, or has not answered."""


class UnknownSubscriptionError(PgNotifierError, LookupError):
    """A durable subscription has no position in the log."""


class NotLiveError(PgNotifierError, TimeoutError):
    """The change is registered, but the server has not confirmed it in time.

    The listener applies it by itself as soon as it is connected again.
    """


class NotifierStoppedError(PgNotifierError, RuntimeError):
    """The notifier was stopped while the call was waiting for the server."""


class BatchError(PgNotifierError, ValueError):
    """A dispatcher acknowledged more deliveries than are left in a batch, or left some over."""


class LogNotInstalledError(PgNotifierError, LookupError):
    """The database has no durable log, or one that is too old: run `pgnotifier install`."""


class LogRefusedError(PgNotifierError, RuntimeError):
    """The server refused a statement of the durable log: a privilege is missing, for example."""


class LogFullError(PgNotifierError, RuntimeError):
    """The durable log has reached its quota, and takes no more until space is given back."""


class AlreadyDoneError(PgNotifierError, RuntimeError):
    """What was to be done once under an id has been done already."""


class TriggerError(PgNotifierError, ValueError):
    """A trigger can't be created or dropped as it is declared."""


class EntryKeyError(PgNotifierError, ValueError):
    """A key of an entry is missing, over 1 kB, or contains what PostgreSQL refuses."""


class PayloadEncodingError(PgNotifierError, TypeError):
    """The value can't be written as a payload."""


class PayloadTooLargeError(PgNotifierError, ValueError):
    """The payload is over 7,999 bytes, the maximum for NOTIFY; or over 64 MiB in an entry."""
