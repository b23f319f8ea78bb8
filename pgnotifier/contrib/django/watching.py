"""Write the status of a listener to the database every few seconds, for the admin."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Hashable, Mapping
from datetime import timedelta
from time import monotonic
from typing import Any, Self

from django.db import connections
from django.db.utils import Error, ProgrammingError
from django.utils import timezone

from pgnotifier._log.outbox_queries import PREFIX
from pgnotifier._runtime.log_records import LogThrottle, about
from pgnotifier._runtime.names import name_callable, spell
from pgnotifier._runtime.redaction import redact
from pgnotifier.cli.listing import join_options
from pgnotifier.contrib.django.channels import Channel
from pgnotifier.contrib.django.notifiers import get_notifier, latest_gaps
from pgnotifier.contrib.django.receiver_options import RECEIVERS
from pgnotifier.contrib.django.rows import find_names, forget, forget_before, write_row
from pgnotifier.contrib.django.stale import close_stale_connections
from pgnotifier.notifier import Notifier

logger = logging.getLogger("pgnotifier.django")

PERIOD = 5.0
"""Seconds between two reports."""
HOST = socket.gethostname()
FORGET = timedelta(days=1)
"""The rows of listeners that haven't reported for this long are deleted."""


class Watch:
    """Writes a row for each notifier every few seconds, during the `with` block."""

    def __init__(self, notifiers: Mapping[str, Notifier]) -> None:
        """Prepare to write; nothing is written yet.

        Args:
            notifiers: The notifiers, by the alias of their database.
        """
        self._notifiers = notifiers
        self._started_at = timezone.now()
        self._before: dict[str, tuple[float, int]] = {}
        self._warn = LogThrottle(logger)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgnotifier-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(PERIOD)

    def _run(self) -> None:
        try:
            while not self._stopping.wait(PERIOD if self._before else 0.2):
                self._write(ended=False)
            self._write(ended=True)
        finally:
            connections.close_all()

    def _write(self, *, ended: bool) -> None:
        close_stale_connections()
        try:
            if not self._before:
                _forget_the_gone()
            for alias, notifier in self._notifiers.items():
                self._write_one(alias, notifier, ended=ended)
        except ProgrammingError as exc:
            extra = about("admin_unwritten", error=type(exc).__name__)
            self._warn(
                "can't report this listener to the admin (run `manage.py migrate`?): %s",
                _first_line(exc),
                extra=extra,
            )
        except Error as exc:  # the database is down
            extra = about("admin_unwritten", error=type(exc).__name__)
            log = self._warn if self._is_connected() else logger.debug
            log("can't report this listener to the admin: %s", _first_line(exc), extra=extra)
        finally:
            close_stale_connections()

    def _is_connected(self) -> bool:
        """Return whether all listeners are connected. If not, they log that themselves."""
        states = {notifier.status().state for notifier in self._notifiers.values()}
        return states <= {"listening", "standby"}

    def _write_one(self, alias: str, notifier: Notifier, *, ended: bool) -> None:
        status, chosen = notifier.status(), notifier.get_channels()
        now = monotonic()
        then, received = self._before.get(alias, (now, status.received))
        self._before[alias] = now, status.received
        passed = now - then
        write_row(
            {
                "name": f"{HOST}:{os.getpid()}:{alias}",
                "database": alias,
                "state": "stopped" if ended else status.state,
                "started_at": self._started_at,
                "seen_at": timezone.now(),
                "received": status.received,
                "rate": max(0, status.received - received) / passed if passed else 0.0,
                "errors": status.errors,
                "status": _plain(status.to_dict()),
                "channels": [row for row in describe(alias, _show_id) if row["channel"] in chosen],
                "gaps": [gap.to_dict() for gap in latest_gaps.get(alias, ())],
            }
        )


def _forget_the_gone() -> None:
    """Delete the rows of dead processes of this host, and of other hosts' listeners after a day."""
    forget_before(timezone.now() - FORGET)
    pids = {name: name[len(HOST) + 1 :].partition(":")[0] for name in find_names(f"{HOST}:")}
    forget([name for name, pid in pids.items() if pid.isdecimal() and not _is_alive(int(pid))])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        pass
    return True


def describe(alias: str, show: Callable[[Hashable], str] = spell) -> list[dict[str, Any]]:
    """Return the channels of a database: dicts of `channel`, `receivers`, `tasks`.

    The dict of a durable channel has `durable`, too: how each of its subscriptions reads the log,
    by the subscription's id.

    Args:
        alias: The alias of the database.
        show: Makes text from the id of a task. Default: as in the names of Celery tasks.
    """
    return [
        {
            "channel": channel.name,
            "receivers": [name_callable(fn) for fn in channel.live_receivers()],
            "tasks": [show(key) for key in channel.tasks],
            **({"durable": _find_durable(channel)} if channel.durable else {}),
        }
        for channel in sorted(Channel.all_known(), key=lambda channel: channel.name)
        if channel.database == alias and (channel.receivers or channel.tasks)
    ] + _describe_relays(get_notifier(alias))


def _describe_relays(notifier: Notifier) -> list[dict[str, Any]]:
    """Return the channels of outboxes, from which messages are sent as they were enqueued."""
    return [
        {
            "channel": channel,
            "receivers": [],
            "tasks": ["as enqueued"],
            "durable": {
                str(key): found.to_dict()
                for key in known
                if (found := notifier.get_durability(key, channel)) is not None
            },
        }
        for channel, known in sorted(notifier.get_subscriptions().items())
        if channel.startswith(PREFIX)
    ]


def spell_durable(row: Mapping[str, Any]) -> list[str]:
    """Return a text for each durable subscription of a channel that `describe` has described."""
    return [f"{key}: {join_options(one)}" for key, one in row.get("durable", {}).items()]


def _find_durable(channel: Channel) -> dict[str, Mapping[str, Any]]:
    """Return the options of a channel's durable subscriptions, by their ids."""
    notifier = get_notifier(channel.database)
    found = {
        str(key): notifier.get_durability(key, channel.name)
        for key in ((RECEIVERS,) if channel.receivers else ()) + tuple(channel.tasks)
    }
    return {key: one.to_dict() for key, one in found.items() if one is not None}


def _show_id(id: Hashable) -> str:
    """Return a str as it is, and any other id as its repr."""
    return id if isinstance(id, str) else repr(id)


def _first_line(exc: Exception) -> str:
    return " ".join(redact(exc).strip().partition("\n")[0].split())


def _plain(value: Any) -> Any:
    """Return JSON-able values without NUL characters, because PostgreSQL's jsonb refuses them."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
