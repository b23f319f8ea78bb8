"""Payloads that are packed to be sent to another process."""

from datetime import UTC, datetime

import pytest

from pgnotifier.dispatchers import pack, unpack
from pgnotifier.notification import Notification
from pgnotifier.payload import decode

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def arrived(raw, parts=()):
    """Return a notification with a text."""
    return Notification("orders", decode(raw), raw, 7, NOW, parts=parts)


@pytest.mark.parametrize("raw", ["", "text", "5", '{"a": [1, null]}', "é\u2028\udcff", "'quoted'"])
def test_one(raw):
    """`unpack` returns the decoded payload, and the packed text is ASCII."""
    packed = pack(arrived(raw))
    assert packed.isascii()
    assert unpack(packed) == decode(raw)
    assert unpack(packed, lambda text: [text]) == [raw]


def test_a_batch():
    """A batch is unpacked as a list of payloads, even if it has only one."""
    one, two = arrived("1"), arrived('"x"')
    assert unpack(pack(arrived('"x"', parts=(one, two)))) == [1, "x"]
    assert unpack(pack(arrived("1", parts=(one,)))) == [1]
