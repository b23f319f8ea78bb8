"""Durable subscriptions: publish, install the log, and grant rights to it.

What is published durably is kept in the schema `pgnotifier` until each durable subscription has
got it.
"""

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
from pgnotifier._log.publishing import apublish, apublish_many, publish, publish_many

__all__ = [
    "VERSION",
    "Part",
    "apublish",
    "apublish_many",
    "check",
    "grant",
    "grant_script",
    "install",
    "install_script",
    "publish",
    "publish_many",
    "uninstall",
    "uninstall_script",
]
