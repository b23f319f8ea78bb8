"""Lines of `pgnotifier tail` for pipes: text, and JSON.

Nothing that a notification contains can do anything to a terminal: control characters, escape
sequences, invisible characters and invalid bytes are written as escapes.
"""

import json
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from pgnotifier.cli.printable import printable
from pgnotifier.cli.tail.inbox import Cut, Event, Loss
from pgnotifier.notification import Notification
from pgnotifier.payload import exact_json

_NOT_ASCII = re.compile(r"[^\x00-\x7e]")
_to_json = msgspec.json.Encoder(decimal_format="number").encode


def show_payload(notification: Notification, *, raw: bool) -> str:
    """Return a payload as one line: as Python writes the value, or the text as it came."""
    if raw:
        return printable(notification.raw)
    return printable(repr(notification.payload))


def make_line(event: Event, *, raw: bool) -> str:
    """Return an event as a line of text."""
    if not isinstance(event, Notification):
        return f"-- {_show_time(_moment(event))}  {describe(event)}\n"
    at = event.published_at
    parts = [_show_time(at or event.received_at), printable(event.channel)]
    if at is None:
        parts.append(str(event.pid))
    else:
        parts += [f"#{event.id}", "-" if event.key is None else printable(event.key)]
    return f"{'  '.join(parts)}  {show_payload(event, raw=raw)}\n"


def make_json(event: Event, *, raw: bool) -> str:
    """Return an event as a line of JSON, in ASCII."""
    if isinstance(event, Cut):
        return _dump({"disconnected": {"since": event.since.isoformat(), "why": event.why}})
    if isinstance(event, Loss):
        gap = {
            "since": event.since.isoformat(),
            "until": event.until.isoformat(),
            "channels": event.channels,
            "reason": event.reason,
            "missed": event.missed,
        }
        return _dump({"gap": gap})
    shown: dict[str, Any] = {"channel": event.channel}
    is_value = not raw and _is_json_value(event.payload)
    if is_value:
        shown["payload"] = event.payload
    if not is_value or not _is_json_text(event):
        shown["raw"] = event.raw
    if event.published_at is None:
        shown["pid"] = event.pid
    else:
        shown |= {"id": event.id, "key": event.key, "published_at": event.published_at.isoformat()}
    return _dump({**shown, "received_at": event.received_at.isoformat()})


def describe(event: Cut | Loss) -> str:
    """Return what happened, in words."""
    if isinstance(event, Cut):
        return f"connection lost: {printable(event.why)}"
    reason = printable(event.reason)
    since, until = _show_clock(event.since), _show_clock(event.until)
    if event.missed:
        noun = "notification" if event.missed == 1 else "notifications"
        return f"{event.missed:,} {noun} dropped between {since} and {until}: {reason}"
    if not event.was_cut:
        return reason
    seconds = (event.until - event.since).total_seconds()
    return f"connected again; not listening from {since} to {until} ({seconds:.1f} s): {reason}"


def _moment(event: Cut | Loss) -> datetime:
    return event.since if isinstance(event, Cut) else event.until


def _show_time(at: datetime) -> str:
    return at.astimezone().isoformat(timespec="milliseconds")


def _show_clock(at: datetime) -> str:
    return at.astimezone().time().isoformat(timespec="milliseconds")


def _is_json_value(value: Any) -> bool:
    return exact_json(value) or isinstance(value, str) or _has_decimals(value)


def _has_decimals(value: Any) -> bool:
    """Return whether a value would be one of JSON's if its decimals were floats."""
    return exact_json(_replace_decimals(value))


def _replace_decimals(value: Any) -> Any:
    if type(value) is Decimal:
        return 0
    if type(value) is list:
        return [_replace_decimals(one) for one in value]
    if type(value) is dict:
        return {key: _replace_decimals(one) for key, one in value.items()}
    return value


def _is_json_text(notification: Notification) -> bool:
    payload, text = notification.payload, notification.raw
    if isinstance(payload, str):
        return payload != text  # a text that isn't JSON is its own value
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _is_json(text)
    return True


def _is_json(text: str) -> bool:
    """Return whether a text is JSON that msgspec refuses: with lone surrogates, for example."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _dump(value: Any) -> str:
    try:
        text = _to_json(value).decode()
    except UnicodeEncodeError:  # lone surrogates
        text = json.dumps(value, default=float)
    # In JSON, characters other than ASCII occur only in strings.
    return _NOT_ASCII.sub(_escape, text) + "\n"


def _escape(found: re.Match[str]) -> str:
    # A character beyond the first 65,536 takes two escapes.
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
