"""Carry payloads to another process through a queue, as the texts that they were decoded from.

A text passes through any queue unchanged, and decodes to the same value on the other side, whatever
its types are and however deeply it is nested.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from pgnotifier.notification import Notification
from pgnotifier.payload import decode

RAW = "__pgnotifier_raw__"
"""The only key of the dict that carries a packed payload, where payloads may also be sent as is."""


def pack(arrived: Notification) -> str:
    """Return a payload, or all those of a batch, packed as ASCII, which any queue takes."""
    return pack_texts([part.raw for part in arrived.parts] or arrived.raw)


def pack_texts(texts: str | Sequence[str]) -> str:
    """Return one or several texts packed for `unpack`, which decodes them."""
    return json.dumps(texts)


def unpack(packed: str, decoder: Callable[[str], Any] = decode) -> Any:
    """Return the payload that `pack` stands for.

    Args:
        packed: What `pack` returned.
        decoder: Makes a payload of a text, as in the notifier.
    """
    texts = json.loads(packed)
    return [decoder(text) for text in texts] if type(texts) is list else decoder(texts)


def wrap(arrived: Notification) -> dict[str, str]:
    """Return a dict to send in place of a payload, for `unwrap` to restore it."""
    return {RAW: pack(arrived)}


def unwrap(carried: Any, decoder: Callable[[str], Any] = decode) -> Any:
    """Return the payload that `wrap` stands for; anything else is the payload itself.

    Args:
        carried: What was sent.
        decoder: Makes a payload of a text, as in the notifier.
    """
    if type(carried) is dict and carried.keys() == {RAW}:
        return unpack(carried[RAW], decoder)
    return carried
