"""Durable subscriptions: install the log, and grant rights to it.

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
)
from pgnotifier._log.installing import script as install_script

__all__ = [
    "VERSION",
    "Part",
    "check",
    "grant",
    "grant_script",
    "install",
    "install_script",
    "uninstall",
]
