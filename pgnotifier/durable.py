"""Durable subscriptions: publish, install the log, grant rights to it, and describe it.

What is published durably is kept in the schema `pgnotifier` until each durable subscription has
got it.
"""

from pgnotifier._log.done import keep_done
from pgnotifier._log.installing import (
    VERSION,
    Part,
    check,
    grant,
    grant_script,
    install,
    uninstall,
    uninstall_script,
)
from pgnotifier._log.installing import script as install_script
from pgnotifier._log.outbox_queries import outboxes
from pgnotifier._log.outbox_values import OutboxState, QueueState
from pgnotifier._log.overview import log_state, positions
from pgnotifier._log.publishing import apublish, apublish_many, publish, publish_many
from pgnotifier.durability import MaxLag
from pgnotifier.status import Holder, LogState, Position, Slot

__all__ = [
    "VERSION",
    "Holder",
    "LogState",
    "MaxLag",
    "OutboxState",
    "Part",
    "Position",
    "QueueState",
    "Slot",
    "apublish",
    "apublish_many",
    "check",
    "grant",
    "grant_script",
    "install",
    "install_script",
    "keep_done",
    "log_state",
    "outboxes",
    "positions",
    "publish",
    "publish_many",
    "uninstall",
    "uninstall_script",
]
