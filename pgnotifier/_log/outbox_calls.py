"""Read which task or job a message in an outbox calls, with its arguments and what follows it.

Arguments are read only if they are JSON. Nothing is ever unpickled: of pickled arguments, at most
the texts and numbers are listed, which needs no object to be made.
"""

import base64
import json
import pickletools
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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
        *("at", "created_at", "eta", "expires", "failure_ttl", "function", "group", "id", "origin"),
        *("priority", "queue", "result_ttl", "status", "task", "timeout", "ttl"),
    }
)
# The options of a signature that are safe to show.
_OPTIONS = frozenset(
    {
        *("countdown", "eta", "exchange", "expires", "priority", "queue", "routing_key"),
        "task_id",
    }
)
_FOLLOWING = {
    "callbacks": "link",
    "errbacks": "link_error",
    "link": "link",
    "link_error": "link_error",
    "chain": "chain",
    "chord": "chord",
}
"""Where a message and the options of a signature have what follows, and what that is called."""
_PARTS = {"chain": ("tasks",), "group": ("tasks",), "chord": ("header", "body")}
"""The keyword arguments of a canvas that are signatures themselves, by its type."""
_PICKLE = "application/x-python-serialize"
_PICKLED = b"\x80"  # the first byte of a pickle, https://peps.python.org/pep-0307/
MOST = 16 << 20
"""The most bytes of a job's arguments that are decompressed."""
MOST_BITS = 10_000
"""The most bits of a number in a pickle that is spelled."""
_VALUES = ("UNICODE", "STRING", "BYTE", "INT", "LONG", "FLOAT")
"""Which operations of a pickle have a text or a number, by a part of their names."""


@dataclass(frozen=True, slots=True)
class Step:
    """A signature that a message carries: a task that follows, or a part of a canvas.

    Attributes:
        kind: What it is: link, link_error, chain or chord; empty for a part of a canvas.
        signature: Its members, as Celery writes them.
    """

    kind: str
    signature: Mapping[str, Any]

    @property
    def task(self) -> str:
        """The name of the task."""
        return str(self.signature.get("task") or "")

    @property
    def args(self) -> list[Any]:
        """The positional arguments."""
        found = self.signature.get("args")
        return found if isinstance(found, list) else []

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments, without the parts of a canvas."""
        found = _dict(self.signature.get("kwargs"))
        return {name: value for name, value in found.items() if name not in self._names}

    @property
    def parts(self) -> dict[str, list["Step"]]:
        """The parts of a canvas, by the names of its arguments; empty for a task."""
        found = _dict(self.signature.get("kwargs"))
        return {name: [*_steps("", found.get(name))] for name in self._names}

    @property
    def options(self) -> dict[str, Any]:
        """The options, without what follows."""
        found = _dict(self.signature.get("options"))
        return {name: value for name, value in found.items() if name not in _FOLLOWING}

    @property
    def safe(self) -> dict[str, Any]:
        """Those of the options that hold no arguments."""
        return {
            name: value
            for name, value in self.options.items()
            if name in _OPTIONS and not isinstance(value, dict | list)
        }

    @property
    def following(self) -> tuple["Step", ...]:
        """What follows it."""
        return _read_following(_dict(self.signature.get("options")))

    @property
    def _names(self) -> tuple[str, ...]:
        return _PARTS.get(str(self.signature.get("subtask_type")), ())


@dataclass(frozen=True, slots=True)
class Call:
    """What a message calls.

    Attributes:
        task: The name of the task or of the job's function; empty if it can't be read.
        args: Its positional arguments; None if they aren't JSON.
        kwargs: Its keyword arguments; None if they aren't JSON.
        following: What follows: a chain in its order, callbacks, the body of a chord.
        fields: The other parts of the message.
        safe: Those of them that Celery, RQ or the SQL function makes, and that hold no arguments.
        pickled: The arguments, if they are pickled.
        made: Other values that hold arguments: the description of a job, and its `meta`.
    """

    task: str = ""
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    following: tuple[Step, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    safe: Mapping[str, Any] = field(default_factory=dict)
    pickled: bytes | None = None
    made: tuple[Any, ...] = ()


def read_call(payload: str) -> Call:
    """Return what a message calls. What can't be read is left out."""
    try:
        whole = json.loads(payload)
    except (ValueError, RecursionError):
        whole = None
    if not isinstance(whole, dict):
        return Call()
    if "body" in whole:
        return _read_message(whole)
    return _read_job(whole) if isinstance(whole.get("job"), dict) else _read_request(whole)


def _read_request(whole: dict[str, Any]) -> Call:
    """Read a task or job that SQL has asked for."""
    args, kwargs = whole.get("args"), whole.get("kwargs")
    is_readable = isinstance(args, list) and isinstance(kwargs, dict)
    fields = {name: value for name, value in whole.items() if name not in ("args", "kwargs")}
    return Call(
        task=str(whole.get("task") or whole.get("function") or ""),
        args=args if is_readable else None,
        kwargs=kwargs if is_readable else None,
        fields=fields,
        safe={name: value for name, value in fields.items() if name in _OF_REQUESTS},
        made=(whole.get("description"), whole.get("meta")),
    )


def _read_job(whole: dict[str, Any]) -> Call:
    """Read a job that RQ has made: see `pgnotifier.contrib.rq.outbox_jobs`."""
    job, binary = _dict(whole.get("job")), _dict(whole.get("binary"))
    data = _decompress(_decode(binary.get("data")))
    args, kwargs, instance = _read_data(data)
    fields = dict(whole)
    if args is not None:  # they are shown, so there is no need for the compressed ones
        fields["binary"] = {name: value for name, value in binary.items() if name != "data"}
        if instance is not None:
            fields["instance"] = instance
    safe = {name: value for name, value in whole.items() if name in _OF_REQUESTS}
    meta = _decode(binary.get("meta"))
    is_pickled = data.startswith(_PICKLED)
    return Call(
        task=str(whole.get("function") or ""),
        args=args,
        kwargs=kwargs,
        fields=fields,
        safe={**safe, "job": {name: one for name, one in job.items() if name in _OF_REQUESTS}},
        pickled=data if is_pickled else None,
        made=(
            job.get("description"),
            instance,
            [*spell_pickled(meta)] if meta.startswith(_PICKLED) else _parse(meta),
        ),
    )


def _read_data(data: bytes) -> tuple[list[Any] | None, dict[str, Any] | None, Any]:
    """Return the arguments of a job, and the object that has the method, if they are JSON."""
    match _parse(data):
        case [_, instance, list(args), dict(kwargs)]:
            return args, kwargs, instance
    return None, None, None


def _read_message(whole: dict[str, Any]) -> Call:
    """Read a message of Celery's."""
    headers, properties = _dict(whole.get("headers")), _dict(whole.get("properties"))
    kind = whole.get("content-type")
    body = whole["body"] if not headers.get("compression") else None
    if properties.get("body_encoding") == "base64":
        body = _decode(body)
    args, kwargs, embed = _read_body(body) if kind == "application/json" else (None, None, {})
    safe = {
        "headers": {name: value for name, value in headers.items() if name in _HEADERS},
        "properties": {name: value for name, value in properties.items() if name in _PROPERTIES},
        "content-type": kind,
    }
    pickled = body if isinstance(body, bytes) else b""
    return Call(
        task=str(headers.get("task") or ""),
        args=args,
        kwargs=kwargs,
        following=_read_following(embed),
        fields={**safe, "headers": headers, "properties": properties},
        safe=safe,
        pickled=pickled if kind == _PICKLE else None,
    )


def _read_body(body: Any) -> tuple[list[Any] | None, dict[str, Any] | None, dict[str, Any]]:
    """Return arguments, and what else there is in a body of JSON.

    https://docs.celeryq.dev/en/stable/internals/protocol.html
    """
    match _parse(body):
        case [list(args), dict(kwargs), *rest]:
            return args, kwargs, _dict(rest[0]) if rest else {}
    return None, None, {}


def _read_following(members: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return the tasks that follow, which have arguments of their own."""
    found: list[Step] = []
    for name, kind in _FOLLOWING.items():
        steps = _steps(kind, members.get(name))
        # A worker takes the next one from the end of a chain.
        found += reversed([*steps]) if kind == "chain" else steps
    return tuple(found)


def _steps(kind: str, given: Any) -> Iterator[Step]:
    for one in given if isinstance(given, list) else [given]:
        if isinstance(_dict(one).get("task"), str):
            yield Step(kind, one)


def spell_pickled(data: bytes) -> Iterator[str | int | float]:
    """Yield the texts and numbers in a pickle, without making objects of it.

    https://docs.python.org/3/library/pickletools.html
    """
    found: list[str | int | float] = []
    try:
        for operation, value, _ in pickletools.genops(data):
            if operation.name == "STACK_GLOBAL":  # the last two name a class
                del found[-2:]
            elif any(part in operation.name for part in _VALUES):
                if isinstance(value, bytes | bytearray):
                    found.append(value.decode("utf-8", "replace"))
                elif isinstance(value, str | int | float):
                    found.append(value)
    except Exception:  # noqa: BLE001, S110 - what it raises for other data isn't documented
        pass
    # Python writes no longer numbers, unless it is asked to.
    yield from (one for one in found if not isinstance(one, int) or one.bit_length() < MOST_BITS)


def _decompress(data: bytes) -> bytes:
    """Return what was compressed, or its beginning."""
    try:
        return zlib.decompressobj().decompress(data, MOST)
    except zlib.error:
        return data


def _decode(text: Any) -> bytes:
    try:
        return base64.b64decode(text)
    except (ValueError, TypeError):
        return b""


def _parse(data: Any) -> Any:
    try:
        return json.loads(data)
    except (ValueError, TypeError, RecursionError):
        return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
