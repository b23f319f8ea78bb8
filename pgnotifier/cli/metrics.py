"""The option `--metrics` of commands that listen."""

import importlib
from collections.abc import Iterable

from pgnotifier._health.health_server import HealthServer
from pgnotifier.errors import ConfigurationError
from pgnotifier.notifier import Notifier

HELP = (
    "Also answer /metrics on the health port, for Prometheus.  Needs the extra `prometheus`, "
    "and --health-port unless the notifier has a health_port."
)


def expose_metrics(
    health: HealthServer | None, notifiers: Iterable[Notifier], option: str = "--health-port"
) -> None:
    """Answer `/metrics` on the health ports of this process.

    Args:
        health: The server of the command, if it has one.
        notifiers: The notifiers, which may have a port of their own.
        option: The option to name in the error.

    Raises:
        ConfigurationError: There is no health port.
        ExtraNotInstalledError: prometheus_client isn't installed.
    """
    if health is None and not any(one.has_health_port for one in notifiers):
        raise ConfigurationError(f"metrics need a health port: {option} PORT")
    importlib.import_module("pgnotifier.contrib.prometheus").expose()
