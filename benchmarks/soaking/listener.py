"""The process under test: a notifier that reports every call, gap and error to its parent.

It reads commands as lines of JSON, and writes lines of JSON. Run it with a DSN and a broker's URL.
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

# A lost connection has to be noticed within seconds: a soak has no minutes for each.
HEARTBEAT, HEARTBEAT_TIMEOUT = 2.0, 4.0
BROKER_TIMEOUT = 4.0
BUFFER = 5_000
"""A small size, so that a burst fills it, or a broker that is down for a few seconds."""


def write_message(*what: object) -> None:
    """Write a line. It is shorter than PIPE_BUF, so lines of several threads don't mix."""
    os.write(1, json.dumps(what).encode() + b"\n")


def called(_id: object, channel: str, payload: Any, _pid: int) -> None:
    """Report a call."""
    write_message("called", channel, *payload)


def queued(_id: object, _channel: str, _payload: Any, _pid: int) -> None:
    """Do nothing: there is no worker, and the task is read from the queue."""


def on_gap(gap: Gap) -> None:
    """Report a gap."""
    write_message("gap", gap.to_dict())


class Listener:
    """Executes the parent's commands."""

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
            on_error=lambda exc, *_: write_message("error", repr(exc)),
        )

    def add(self, *channels: str) -> None:
        """Subscribe a callback and a task to each of these channels."""
        for channel in channels:
            write_message("adding", channel)
            self._notifier.subscribe("called", channel, called)
            self._notifier.subscribe("queued", channel, queued, dispatcher=self._dispatcher)

    def keep(self, *channels: str) -> None:
        """Subscribe them durably to each of these channels."""
        celery = self._dispatcher
        for channel in channels:
            self._notifier.subscribe("called", channel, called, durable=True)
            self._notifier.subscribe("queued", channel, queued, durable=True, dispatcher=celery)

    def remove(self, channel: str) -> None:
        """Stop listening to a channel."""
        self._notifier.remove_channel(channel)
        write_message("removed", channel)

    def restart(self) -> None:
        """Replace the connection."""
        self._notifier.restart()

    def status(self) -> dict[str, Any]:
        """Return the parts of the status that the soak needs."""
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
    """Execute commands until the parent closes the pipe."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    one = Listener(dsn, broker)
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        try:
            write_message("done", getattr(one, verb)(*arguments))
        except Exception as exc:  # noqa: BLE001 - for the parent to judge
            write_message("failed", repr(exc))
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(0)  # the parent has ended, so nothing waits for a clean stop


if __name__ == "__main__":
    serve(*sys.argv[1:])
