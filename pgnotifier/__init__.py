"""NOTIFY in, work out: deliver PostgreSQL notifications to callbacks, Celery tasks and RQ jobs.

The route of a notification, and the code that each step is in:

    connection -> listener -> registry -> buffer -> decode -> dispatcher
    _connection/  _listener/  _registry/  _delivery/ payload.py  dispatchers/, contrib/
    one psycopg   LISTEN,     channel to  bounded,  text to     inline, threads, asyncio,
    connection    read        {id: sub}   in order  Python      Celery, RQ, Django, yours

The reader thread takes a notification as far as the buffer; the deliverer thread of its dispatcher
does the rest. A `Notifier` is what a user holds: it starts the listener and owns the registry.
CONTRIBUTING.md follows one notification, function by function.
"""

from pgnotifier import errors
from pgnotifier._runtime.version import VERSION
from pgnotifier.dispatch import Batch, Binding, Delivery, Dispatcher, Subscription
from pgnotifier.dispatchers.asyncio import AsyncioDispatcher
from pgnotifier.dispatchers.in_workers import current_entry
from pgnotifier.dispatchers.inline import InlineDispatcher
from pgnotifier.dispatchers.threads import ThreadDispatcher
from pgnotifier.errors import (
    AlreadyDoneError,
    ArgumentTypeError,
    BatchError,
    ChannelNameError,
    ConfigurationError,
    ConnectionFailedError,
    DispatcherMismatchError,
    EntryKeyError,
    ListenRefusedError,
    LogFullError,
    LogNotInstalledError,
    LogRefusedError,
    NotifierStoppedError,
    NotifyRefusedError,
    NotListeningError,
    NotLiveError,
    OrderRefusedError,
    PayloadEncodingError,
    PayloadTooLargeError,
    PgNotifierError,
    TaskNameError,
    TriggerError,
    UnknownOptionError,
    UnknownSubscriptionError,
)
from pgnotifier.notification import Entry, Gap, Notification
from pgnotifier.notifier import Notifier
from pgnotifier.status import DispatcherStatus, DurableStatus, StateChange, Status

__version__ = VERSION

__all__ = [
    "AlreadyDoneError",
    "ArgumentTypeError",
    "AsyncioDispatcher",
    "Batch",
    "BatchError",
    "Binding",
    "ChannelNameError",
    "ConfigurationError",
    "ConnectionFailedError",
    "Delivery",
    "Dispatcher",
    "DispatcherMismatchError",
    "DispatcherStatus",
    "DurableStatus",
    "Entry",
    "EntryKeyError",
    "Gap",
    "InlineDispatcher",
    "ListenRefusedError",
    "LogFullError",
    "LogNotInstalledError",
    "LogRefusedError",
    "NotListeningError",
    "NotLiveError",
    "Notification",
    "Notifier",
    "NotifierStoppedError",
    "NotifyRefusedError",
    "OrderRefusedError",
    "PayloadEncodingError",
    "PayloadTooLargeError",
    "PgNotifierError",
    "StateChange",
    "Status",
    "Subscription",
    "TaskNameError",
    "ThreadDispatcher",
    "TriggerError",
    "UnknownOptionError",
    "UnknownSubscriptionError",
    "current_entry",
    "errors",
]
