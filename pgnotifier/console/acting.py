"""Dead letters and outboxes as the page shows them, and dropping what waits in an outbox."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import psycopg

from pgnotifier._log import dead_letters
from pgnotifier._log.dead_letters import DeadLetter
from pgnotifier._log.outbox_queries import PREFIX, list_entries, set_aside
from pgnotifier._log.outbox_redaction import hide_arguments

MOST = 500
"""How many letters or entries a page lists."""
_REASON = "set aside in the console"


def list_letters(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Return what has failed for good, without payloads and tracebacks."""
    return [_summarize(one) for one in dead_letters.find_letters(connection, limit=MOST)]


def show_letter(
    connection: psycopg.Connection[Any], number: int, *, shows_payloads: bool
) -> dict[str, Any] | None:
    """Return one of them with its traceback; None if it isn't there.

    Args:
        connection: A connection of a listener.
        number: Its number.
        shows_payloads: Whether to return its payload, too. Arguments of tasks stay hidden.
    """
    found = dead_letters.find_letters(connection, n=number, everything=True)
    if not found:
        return None
    letter = found[0]
    shown = _summarize(letter) | {"traceback": letter.traceback, "key": letter.key}
    if letter.channel.startswith(PREFIX):
        return shown | {"payload": hide_arguments(letter.payload)}
    return shown | {"payload": letter.payload if shows_payloads else None}


def list_outbox(
    connection: psycopg.Connection[Any], sub: int, *, failed: bool
) -> list[dict[str, Any]]:
    """Return what waits in an outbox, or what has failed, without arguments."""
    return [dict(one.to_dict()) for one in list_entries(connection, sub, failed=failed, limit=MOST)]


def drop_waiting(connection: psycopg.Connection[Any], sub: int, entries: Sequence[int]) -> int:
    """Take entries that wait out of the way of a relay, and delete them; return how many."""
    with connection.transaction():
        made, _ = set_aside(connection, sub, entries, _REASON)
        return dead_letters.drop_letters(connection, made)


def _summarize(letter: DeadLetter) -> dict[str, Any]:
    shown = asdict(letter)
    for name in ("payload", "traceback", "key"):
        del shown[name]
    for name in ("at", "retry_at", "failed_at"):
        shown[name] = shown[name] and shown[name].isoformat()
    return shown
