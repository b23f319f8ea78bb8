"""The exceptions of `pgnotifier.testing`.

PgNotifierError
  ServerError               a server could not be started, stopped or used
    ExternalServerError     it was not started from here, so it can't be stopped from here
  ServerNotInstalledError   the server's binaries aren't installed
"""

from __future__ import annotations

from pgnotifier.errors import PgNotifierError


class ServerError(PgNotifierError, RuntimeError):
    """A server could not be started, stopped or used."""


class ExternalServerError(ServerError):
    """A server that an environment variable names can't be started or stopped from here."""


class ServerNotInstalledError(PgNotifierError, LookupError):
    """The server's binaries aren't installed."""
