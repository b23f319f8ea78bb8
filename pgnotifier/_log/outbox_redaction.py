"""Show what a message in an outbox calls, and hide its arguments: they may be personal data.

Arguments are shown only if they are JSON. Nothing is ever unpickled.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pgnotifier._log.outbox_calls import Call, Step, read_call, spell_pickled
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

_RECOGNISED = 4
"""The least length in characters of an argument that is looked for in a text."""
_LEVELS = 100
_PICKLED = "pickled"
_MAPPED = frozenset({"celery.chunks", "celery.map", "celery.starmap"})
"""Celery's tasks that have positional arguments of another task in the keyword argument `it`."""


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
    return json.dumps(describe(payload, None), ensure_ascii=False)


def describe(payload: str, redact: Redact) -> dict[str, Any]:
    """Return what may be shown of a message, JSON-able.

    Of tasks that follow, the names are shown; with `redact`, their arguments and options, too.
    """
    call = read_call(payload)
    if redact is not None and not callable(redact):
        redact = tuple(redact)
    is_open = redact == ()
    signatures = [one.signature for one in call.following]
    if redact is None or _is_deep(signatures):
        then: list[Any] = [one.task for one in call.following]
    else:
        then = [_describe_step(one, redact, is_open=is_open) for one in call.following]
    return {
        **_show(call, redact),
        "then": then,
        **(call.fields if is_open and not _is_deep(call.fields) else call.safe),
    }


def _show(call: Call, redact: Redact) -> dict[str, Any]:
    """Return the arguments of a call to show; None if they can't be read, or are nested too deep.

    If the function fails, all values are hidden.
    """
    args, kwargs = call.args, call.kwargs
    if args is None or kwargs is None or _is_deep([args, kwargs]):
        return dict.fromkeys(("args", "kwargs"), None if call.pickled is None else _PICKLED)
    shown, named = _hide(call.task, args, kwargs, redact)
    return {"args": shown, "kwargs": named}


def _describe_step(step: Step, redact: Redact, *, is_open: bool) -> dict[str, Any]:
    """Return what may be shown of a signature. Those in it are described in the same way."""

    def describe_all(steps: Iterable[Step]) -> list[dict[str, Any]]:
        return [_describe_step(one, redact, is_open=is_open) for one in steps]

    shown: dict[str, Any] = {"as": step.kind} if step.kind else {}
    shown["task"] = step.task
    parts = step.parts
    if not parts:
        shown["args"], shown["kwargs"] = _hide(step.task, step.args, step.kwargs, redact)
    elif is_open:
        shown["kwargs"] = step.kwargs
    shown |= {name: describe_all(steps) for name, steps in parts.items()}
    shown["options"] = step.options if is_open else step.safe
    if step.following:
        shown["then"] = describe_all(step.following)
    return shown


def _hide(task: str, args: list[Any], kwargs: dict[str, Any], redact: Redact) -> Shown:
    if callable(redact):
        try:
            shown, named = redact(task, args, kwargs)
        except Exception:  # noqa: BLE001 - its message may hold arguments
            return _hide(task, args, kwargs, None)
        return shown, named
    if redact is None:
        return [HIDDEN] * len(args), dict.fromkeys(kwargs, HIDDEN)
    names = frozenset(redact)
    if not names:
        return args, kwargs
    if task in _MAPPED:
        names |= {"it"}
    return [HIDDEN] * len(args), _hide_members(kwargs, names)


def _hide_members(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        if value.keys() >= {"task", "args", "kwargs"}:  # a signature has positional arguments
            step = Step("", value)
            kept = {"task": step.task, "args": [HIDDEN] * len(step.args), "options": step.safe}
            return {**kept, "kwargs": _hide_members(_dict(value["kwargs"]), names)}
        return {
            name: HIDDEN if name in names else _hide_members(one, names)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_hide_members(one, names) for one in value]
    return value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def mentions(payload: str, text: str) -> bool:
    """Return whether a text contains an argument of a message: a string, or a longer number.

    So do arguments of tasks that follow, and what RQ makes of arguments or keeps beside them.
    """
    call = read_call(payload)
    values = [call.args, call.kwargs, *call.made, *_arguments_of(call.following)]
    if call.pickled is not None:
        values += [one for one in spell_pickled(call.pickled) if one != call.task]
    return any(one in text for one in _spelled(values))


def _arguments_of(steps: Iterable[Step]) -> Iterator[Any]:
    left = [*steps]
    while left:
        step = left.pop()
        yield step.args
        yield step.kwargs
        left += [*step.following, *(one for some in step.parts.values() for one in some)]


def _spelled(value: Any) -> Iterator[str]:
    """Yield the spellings of values that are long enough to be recognised in a text."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict | list):
            left += one.values() if isinstance(one, dict) else one
        elif isinstance(one, str):
            if len(one) >= _RECOGNISED:
                yield one
                yield repr(one)[1:-1]
                yield ascii(one)[1:-1]
                yield json.dumps(one)[1:-1]
        elif not isinstance(one, bool | None) and len(str(one)) >= _RECOGNISED:
            yield str(one)


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
