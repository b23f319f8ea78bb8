"""Stamp messages for any transport, as the arguments of a kombu producer."""

from dataclasses import dataclass
from typing import Any

from kombu import serialization

from pgnotifier.contrib.celery.recording import Published
from pgnotifier.contrib.celery.stamping import CeleryStamp, make_serializer, undated
from pgnotifier.contrib.celery.targets import CeleryTarget, Given

_serialize: Any = serialization.dumps


@dataclass(frozen=True, slots=True)
class KombuMessage:
    """A serialized body, and the other arguments of `Producer.publish`."""

    body: str | bytes
    settings: dict[str, Any]


class KombuStamp(CeleryStamp):
    """The arguments that Celery passed to `Producer.publish`.

    https://docs.celeryq.dev/projects/kombu/en/stable/reference/kombu.html#kombu.Producer.publish
    """

    def __init__(self, like: Published, target: CeleryTarget) -> None:
        """Make the stamp of a message."""
        super().__init__(like, target)
        self._like = like
        headers = self.headers
        self._ids = [name for name, value in headers.items() if value == headers["id"]]
        self.is_dated = bool(headers["eta"] or headers["expires"])
        self._serialize = make_serializer(like)
        content_type, content_encoding, _ = _serialize(like.body, like.serializer)
        self._serialized = {
            "serializer": None,
            "content_type": content_type,
            "content_encoding": content_encoding,
        }

    def press(self, given: Given, task_id: str) -> Any:
        """Return a `KombuMessage`."""
        positional = self.positional(given.arguments)
        settings = {
            **self._press_settings(given, positional, task_id),
            **self._serialized,
        }
        settings["headers"].update(self.added(given.added, given.origin))
        return KombuMessage(self._serialize(positional), settings)

    def find_difference(self, other: Published) -> str | None:
        """Return which argument for another message the stamp makes differently."""
        task_id = other.settings["correlation_id"]
        mine = self._press_settings(other.given, self.positional(other.given.arguments), task_id)
        headers, _ = self.split(other.settings["headers"])
        theirs = {**other.settings, "headers": headers}
        for name in sorted((mine.keys() | theirs.keys()) - {"expiration"}):
            if undated(mine.get(name)) != undated(theirs.get(name)):
                return name
        return None

    def _press_settings(self, given: Given, positional: Any, task_id: str) -> dict[str, Any]:
        headers = {
            **self.headers,
            **dict.fromkeys(self._ids, task_id),
            "argsrepr": self.show(positional),
            "pgnotifier": given.origin,
        }
        return {**self._like.settings, "correlation_id": task_id, "headers": headers}
