"""Provide `MessageStamp`, which makes messages of one task with one set of options."""

import binascii
import json
import operator
import re
import secrets
from typing import Any

from celery.app.defaults import DEFAULTS
from kombu import serialization
from kombu.utils import json as kombu_json

from pgnotifier._log.composing import Draft
from pgnotifier.contrib.celery.argsrepr import is_plain, show_arguments, show_plain
from pgnotifier.contrib.celery.plain_json import dump_plain
from pgnotifier.contrib.celery.stamping import REPR_LEVELS

_serialize: Any = serialization.dumps
_dump: Any = kombu_json.JSONEncoder().encode
_quote = json.encoder.encode_basestring_ascii
_JSON = ["application/json", "utf-8"]
_EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_ENDING = f", {_dump(_EMBEDDED)}]"
_MARK = secrets.token_hex(8)
_PARTS = ("id", "tag", "body", "args", "kwargs")
_PLACE = re.compile(f"{_MARK}({'|'.join(_PARTS)}){_MARK}")
UUID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class MessageStamp:
    """The log entry of a message, split where the entries of other messages differ."""

    def __init__(self, app: Any, draft: Draft, serializer: str) -> None:
        """Learn from a message that Celery has made.

        Raises:
            ValueError: It can't be a template.
        """
        self._app = app
        self._serializer = serializer
        self._key, text = draft
        message = json.loads(text)
        headers, properties = message["headers"], message["properties"]
        task_id = headers["id"]
        if properties["body_encoding"] != "base64" or not UUID_PATTERN.fullmatch(task_id):
            raise ValueError("it has another body, or an id of its own")
        self._kind = [message["content-type"], message["content-encoding"]]
        # The registry's function for JSON ends up here, too, but looks up the serializer first.
        self._is_json = self._kind == _JSON and serializer == "json"
        message["body"] = f"{_MARK}body{_MARK}"
        properties["delivery_tag"] = f"{_MARK}tag{_MARK}"
        properties["correlation_id"] = headers["id"] = headers["root_id"] = f"{_MARK}id{_MARK}"
        headers["argsrepr"] = f"{_MARK}args{_MARK}"
        headers["kwargsrepr"] = f"{_MARK}kwargs{_MARK}"
        self._pieces = _PLACE.split(json.dumps(message))
        self._choose = operator.itemgetter(*map(_PARTS.index, self._pieces[1::2]))
        amqp = app.amqp
        self._sizes = amqp.argsrepr_maxsize, amqp.kwargsrepr_maxsize
        knows_levels = "task_repr_maxlevels" in DEFAULTS
        self._levels: int = app.conf.task_repr_maxlevels if knows_levels else REPR_LEVELS

    def press(self, args: Any, kwargs: Any, task_id: str, tag: str) -> Draft | None:
        """Return the entry of a message; None if Celery has to make it.

        That is so if its body has another type, and if there is an error, because Celery has its
        own ways to raise it.
        """
        args, kwargs = args or (), kwargs or {}
        try:
            data, shown, shown_kwargs = self._write(args, kwargs)
        except Exception:  # noqa: BLE001 - by the code of any class in the arguments
            return None
        if data is None:
            return None
        body = binascii.b2a_base64(data, newline=False).decode()
        parts = self._pieces.copy()
        parts[1::2] = self._choose(
            (task_id, tag, body, _quote(shown)[1:-1], _quote(shown_kwargs)[1:-1])
        )
        return self._key, "".join(parts)

    def _write(self, args: Any, kwargs: Any) -> tuple[bytes | None, str, str]:
        """Return the body, if it has the right type, and the reprs of the arguments."""
        size, size_of_kwargs = self._sizes
        levels = self._levels
        if self._is_json and is_plain(args, levels) and (not kwargs or is_plain(kwargs, levels)):
            named = dump_plain(kwargs) if kwargs else "{}"
            data = f"[{dump_plain(args)}, {named}{_ENDING}".encode()
            shown = show_plain(args, size, levels)
            return data, shown, show_plain(kwargs, size_of_kwargs, levels) if kwargs else "{}"
        shown = show_arguments(args, size, levels)
        shown_kwargs = show_arguments(kwargs, size_of_kwargs, levels) if kwargs else "{}"
        return self._serialize(args, kwargs), shown, shown_kwargs

    def _serialize(self, args: Any, kwargs: Any) -> bytes | None:
        body = args, kwargs, _EMBEDDED
        # The registry's function for JSON ends up here, too, but looks up the serializer first.
        if self._is_json:
            return str(_dump(body)).encode()
        *kind, data = _serialize(body, self._serializer)
        if kind != self._kind:
            return None
        return data.encode() if isinstance(data, str) else bytes(data)

    def makes(self, draft: Draft, args: Any, kwargs: Any) -> bool:
        """Return whether it makes a message just as Celery did."""
        message = json.loads(draft[1])
        task_id, tag = message["headers"]["id"], message["properties"]["delivery_tag"]
        return self.press(args, kwargs, task_id, tag) == draft
