"""Have `migrate` install the durable log, and the admin show it: add this to INSTALLED_APPS.

A project that prefers migrations of its own puts the operation `InstallLog` there instead, and
`UpgradeLog` for each later version.
"""

from pgnotifier.contrib.django.durable.operations import InstallLog, UpgradeLog

__all__ = ["InstallLog", "UpgradeLog"]
