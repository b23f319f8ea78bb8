"""A Django app: `migrate` installs the durable log, and the admin shows it.

Add it to INSTALLED_APPS. A project that prefers migrations of its own puts the operation
`InstallLog` into one instead, and `UpgradeLog` for each later version.
"""

from pgnotifier.contrib.django.durable.operations import InstallLog, UpgradeLog

__all__ = ["InstallLog", "UpgradeLog"]
