"""Read which task a message in an outbox calls, and hide its arguments: they may be personal data.

Arguments are read only if they are JSON. Nothing is ever unpickled.
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pgnotifier.errors import ArgumentTypeError

HIDDEN = "…"
"""What stands for a value that isn't shown."""

Shown = tuple[Any, Any]
"""The positional and the keyword arguments to show."""
Redact = Callable[[str, list[Any], dict[str, Any]], Shown] | Iterable[str] | None
"""How to hide arguments. A function gets the task's name and its positional and keyword arguments,
and returns what to show of these. With names, all positional arguments are hidden, and so are the
values of keyword arguments and members with such a name, at any depth. An empty list hides nothing;
None hides all values."""

# Headers that are safe to show. Celery's `shadow`, `argsrepr` and `kwargsrepr` may contain
# arguments, and so may the user's own headers and stamps.
_HEADERS = frozenset(
    {
        *("eta", "expires", "group", "group_index", "id", "ignore_result", "lang", "origin"),
        *("parent_id", "replaced_task_nesting", "retries", "root_id", "task", "timelimit"),
    }
)
_PROPERTIES = frozenset(
    {
        *("correlation_id", "delivery_info", "delivery_mode", "delivery_tag", "expiration"),
        *("priority", "reply_to"),
    }
)
_OF_REQUESTS = frozenset(
    {
        *("at", "enqueued_at", "eta", "expires", "failure_ttl", "function", "id", "origin"),
        *("priority", "queue", "result_ttl", "status", "task", "timeout", "ttl"),
    }
)
_RECOGNISED = 4
"""The least length in characters of an argument that is looked for in a text."""
_LEVELS = 100
_CALLS = ("callbacks", "errbacks", "chain", "chord")


@dataclass(frozen=True, slots=True)
class Call:
    """What a message calls.

    Attributes:
        task: The name of the task or of the job's function; empty if it can't be read.
        args: Its positional arguments; None if they aren't JSON.
        kwargs: Its keyword arguments; None if they aren't JSON.
        calls: The names of the tasks that follow: a chain, callbacks.
        fields: The other parts of the message.
        safe: Those of them that Celery, RQ or the SQL function makes, and that hold no arguments.
    """

    task: str
    args: list[Any] | None
    kwargs: dict[str, Any] | None
    calls: tuple[str, ...]
    fields: Mapping[str, Any]
    safe: Mapping[str, Any]

    def describe(self, redact: Redact) -> dict[str, Any]:
        """Return what may be shown of it, JSON-able."""
        is_open = not callable(redact) and redact is not None and not [*redact]
        args, kwargs = hide(self, redact)
        return {
            "args": args,
            "kwargs": kwargs,
            "then": list(self.calls),
            **(self.fields if is_open and not _is_deep(self.fields) else self.safe),
        }


def check_redact(redact: Any) -> Redact:
    """Return a checked value for `Redact`.

    Raises:
        ArgumentTypeError: It is neither a callable nor an iterable of names.
    """
    if redact is None or callable(redact):
        found: Any = redact
        return found  # type: ignore[no-any-return]
    if isinstance(redact, str) or not isinstance(redact, Iterable):
        raise ArgumentTypeError(
            f"redact must be a callable or a list of names, not {type(redact).__name__}"
        )
    names = tuple(redact)
    if not all(isinstance(one, str) for one in names):
        raise ArgumentTypeError("redact must hold names of arguments, as str")
    return names


def hide_arguments(payload: str) -> str:
    """Return what may be shown of a message as JSON, without the values of arguments."""
    return json.dumps(read_call(payload).describe(None), ensure_ascii=False)


def read_call(payload: str) -> Call:
    """Return what a message calls. What can't be read is left out."""
    try:
        whole = json.loads(payload)
    except (ValueError, RecursionError):
        whole = None
    if not isinstance(whole, dict):
        return Call("", None, None, (), {}, {})
    if "body" not in whole:
        return _read_request(whole)
    headers, properties = _dict(whole.get("headers")), _dict(whole.get("properties"))
    args, kwargs, embed = _read_body(whole, headers, properties)
    safe = {
        "headers": {name: value for name, value in headers.items() if name in _HEADERS},
        "properties": {name: value for name, value in properties.items() if name in _PROPERTIES},
        "content-type": whole.get("content-type"),
    }
    fields = {**safe, "headers": headers, "properties": properties}
    return Call(str(headers.get("task") or ""), args, kwargs, tuple(_names(embed)), fields, safe)


def hide(call: Call, redact: Redact) -> Shown:
    """Return the arguments of a call to show; None if they can't be read, or are nested too deep.

    If the function fails, all values are hidden.
    """
    if call.args is None or call.kwargs is None or _is_deep([call.args, call.kwargs]):
        return None, None
    if callable(redact):
        try:
            args, kwargs = redact(call.task, call.args, call.kwargs)
        except Exception:  # noqa: BLE001 - its message may hold arguments
            return hide(call, None)
        return args, kwargs
    if redact is None:
        return [HIDDEN] * len(call.args), dict.fromkeys(call.kwargs, HIDDEN)
    names = frozenset(redact)
    if not names:
        return call.args, call.kwargs
    return [HIDDEN] * len(call.args), _hide_members(call.kwargs, names)


def _hide_members(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {
            name: HIDDEN if name in names else _hide_members(one, names)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_hide_members(one, names) for one in value]
    return value


def _read_request(whole: dict[str, Any]) -> Call:
    """Read a request that was made in SQL, or an RQ job."""
    args, kwargs = whole.get("args"), whole.get("kwargs")
    is_readable = isinstance(args, list) and isinstance(kwargs, dict)
    fields = {name: value for name, value in whole.items() if name not in ("args", "kwargs")}
    safe = {name: value for name, value in fields.items() if name in _OF_REQUESTS}
    task = whole.get("task") or whole.get("function") or ""
    return Call(
        str(task), args if is_readable else None, kwargs if is_readable else None, (), fields, safe
    )


def _read_body(
    whole: dict[str, Any], headers: dict[str, Any], properties: dict[str, Any]
) -> tuple[list[Any] | None, dict[str, Any] | None, dict[str, Any]]:
    """Read the arguments of a message of Celery's, if they are JSON.

    https://docs.celeryq.dev/en/stable/internals/protocol.html
    """
    unread: tuple[None, None, dict[str, Any]] = (None, None, {})
    if whole.get("content-type") != "application/json" or headers.get("compression"):
        return unread
    try:
        body: Any = whole["body"]
        if properties.get("body_encoding") == "base64":
            body = base64.b64decode(body)
        match json.loads(body):
            case [list(args), dict(kwargs), *rest]:
                return args, kwargs, _dict(rest[0]) if rest else {}
    except (ValueError, TypeError, RecursionError):
        pass
    return unread


def _names(embed: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the tasks that follow, which have arguments of their own."""
    for kind in _CALLS:
        given = embed.get(kind)
        for one in given if isinstance(given, list) else [given]:
            name = _dict(one).get("task")
            if isinstance(name, str):
                yield name


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def mentions(payload: str, text: str) -> bool:
    """Return whether a text contains an argument of a message: a string, or a longer number."""
    call = read_call(payload)
    return any(one in text for one in _spelled([call.args, call.kwargs]))


def _spelled(value: Any) -> Iterator[str]:
    """Yield the spellings of values that are long enough to be recognised in a text."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict | list):
            left += one.values() if isinstance(one, dict) else one
        elif isinstance(one, str | int | float) and len(str(one)) >= _RECOGNISED:
            yield str(one)
            yield repr(one)[1:-1] if isinstance(one, str) else str(one)


def _is_deep(value: Any) -> bool:
    """Return whether a value has more levels than a page could show."""
    levels = [value]
    for _ in range(_LEVELS):
        levels = [
            inner
            for one in levels
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(levels)
