"""NOTIFY in, work out: PostgreSQL notifications delivered to subscriptions.

The route of a notification, and the modules that it passes:

    connection -> listener -> registry -> buffer -> decode -> dispatcher
    one psycopg   LISTEN,     channel to  bounded,  text to   inline, threads, asyncio,
    connection    drain       {id: sub}   in order  Python    Celery, RQ, Django, yours

A `Notifier` is what a user holds; it starts the listener and owns the registry.
"""

from pgnotifier import errors
from pgnotifier.aio import AsyncioDispatcher
from pgnotifier.dispatch import Batch, Delivery, Dispatcher, InlineDispatcher
from pgnotifier.errors import (
    ArgumentTypeError,
    BatchError,
    ChannelNameError,
    ConfigurationError,
    ConnectionFailedError,
    DispatcherMismatchError,
    ListenRefusedError,
    NotHearingError,
    NotifierStoppedError,
    NotifyRefusedError,
    NotLiveError,
    PayloadEncodingError,
    PayloadTooLargeError,
    PgNotifierError,
    TaskNameError,
    UnknownOptionError,
)
from pgnotifier.notification import Gap, Notification
from pgnotifier.notifier import Notifier
from pgnotifier.registry import Binding, Subscription
from pgnotifier.states import StateChange
from pgnotifier.status import DispatcherStatus, Status
from pgnotifier.threads import ThreadDispatcher

__version__ = "0.1.0"

__all__ = [
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
    "Gap",
    "InlineDispatcher",
    "ListenRefusedError",
    "NotHearingError",
    "NotLiveError",
    "Notification",
    "Notifier",
    "NotifierStoppedError",
    "NotifyRefusedError",
    "PayloadEncodingError",
    "PayloadTooLargeError",
    "PgNotifierError",
    "StateChange",
    "Status",
    "Subscription",
    "TaskNameError",
    "ThreadDispatcher",
    "UnknownOptionError",
    "errors",
]
