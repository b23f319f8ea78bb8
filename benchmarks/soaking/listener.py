"""The process under test: a notifier that tells its parent all that it is told.

It takes commands as lines of JSON, and writes lines of JSON. Run with a DSN and a broker's URL.
"""

import contextlib
import json
import logging
import os
import sys
from typing import Any

from celery import Celery

from pgnotifier import Gap, Notifier
from pgnotifier.contrib.celery import CeleryDispatcher

# Silence is to be noticed within seconds: a soak has no minutes for each.
HEARTBEAT, HEARTBEAT_TIMEOUT = 2.0, 4.0
BROKER_TIMEOUT = 4.0
BUFFER = 5_000
"""Little, so that bursts fill it, and a broker that is down for some seconds."""


def tell(*what: object) -> None:
    """Write a line, whole: shorter than PIPE_BUF, lines of several threads don't mix."""
    os.write(1, json.dumps(what).encode() + b"\n")


def heard(_id: object, channel: str, payload: Any, _pid: int) -> None:
    """Tell of a delivery by a call."""
    tell("heard", channel, *payload)


def queued(_id: object, _channel: str, _payload: Any, _pid: int) -> None:
    """Do nothing: there is no worker, the task is looked for in the queue."""


def on_gap(gap: Gap) -> None:
    """Tell of a gap."""
    tell("gap", gap.to_dict())


class Listener:
    """Does what the parent asks for."""

    def __init__(self, dsn: str, broker: str) -> None:
        app = Celery("soak", broker=broker)
        app.conf.broker_transport_options = {"socket_timeout": BROKER_TIMEOUT}
        app.conf.broker_connection_timeout = BROKER_TIMEOUT
        self._dispatcher = CeleryDispatcher(app)
        self._notifier = Notifier(
            dsn,
            heartbeat=HEARTBEAT,
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            buffer_size=BUFFER,
            on_gap=on_gap,
            on_error=lambda exc, *_: tell("error", repr(exc)),
        )

    def add(self, *channels: str) -> None:
        """Subscribe both ways to each of these channels."""
        for channel in channels:
            tell("adding", channel)
            self._notifier.subscribe("heard", channel, heard)
            self._notifier.subscribe("queued", channel, queued, dispatcher=self._dispatcher)

    def remove(self, channel: str) -> None:
        """Listen to a channel no more."""
        self._notifier.remove_channel(channel)
        tell("removed", channel)

    def restart(self) -> None:
        """Replace the connection."""
        self._notifier.restart()

    def status(self) -> dict[str, Any]:
        """Return how it is."""
        status = self._notifier.status()
        return {
            "state": status.state,
            "reconnects": status.reconnects,
            "gaps": status.gaps,
            "waiting": sum(one.waiting for one in status.dispatchers),
        }

    def stop(self) -> int:
        """Stop, and return how many deliveries were given up."""
        return self._notifier.stop(timeout=20)


def serve(dsn: str, broker: str) -> None:
    """Do what is asked for, until the parent closes the pipe."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    one = Listener(dsn, broker)
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        try:
            tell("done", getattr(one, verb)(*arguments))
        except Exception as exc:  # noqa: BLE001 - for the parent to judge
            tell("failed", repr(exc))
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(0)  # a parent that is gone waits for nothing


if __name__ == "__main__":
    serve(*sys.argv[1:])
