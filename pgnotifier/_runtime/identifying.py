"""The ids of tasks and jobs: the same each time that entries are delivered to a subscription.

An entry's number identifies it, together with its time: a restored database may use a number again.
The id of a single entry holds both, combined with a mask that the subscription has to itself. It is
a UUID of version 8. That of several entries that were gathered is a hash, a UUID of version 5.
https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-8
"""

import struct
from collections.abc import Hashable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from typing import Any, Protocol
from uuid import UUID

import msgspec

_NAMESPACE = UUID("0d1f9a3e-6a4f-5c59-9c0b-2f6f5f8b8b51").bytes
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_LOW, _HIGH = (1 << 48) - 1, (1 << 12) - 1
"""Of the time, the bits that come before the version of a UUID, and those that come after it."""
_PARTS = struct.Struct("8s4s4s4s12s")
_WITH_VERSION = {
    version: bytes(byte & 0x0F | version << 4 for byte in range(256)) for version in (4, 5, 8)
}
_WITH_VARIANT = bytes(byte & 0x3F | 0x80 for byte in range(256))


class Identified(Protocol):
    """What this module has to know about an entry."""

    @property
    def id(self) -> int:
        """Its number."""
        ...

    @property
    def published_at(self) -> datetime | None:
        """When it was published."""
        ...


class Identifier:
    """What the ids of one subscription's deliveries are derived from."""

    __slots__ = ("_hash", "_mask")

    def __init__(self, id: Hashable, channel: str) -> None:
        """Make it of a subscription's id and its channel."""
        self._hash: Any = sha1(_NAMESPACE, usedforsecurity=False)
        self._hash.update(f"({id!r}, {channel!r}, ".encode())
        self._mask = with_version(self._hash.digest()[:16], 8)

    def identify(self, entry: Identified) -> str:
        """Return the id of the delivery of one entry."""
        before, after = _halves(entry)
        number = (before << 64 | after) ^ int.from_bytes(self._mask)
        digits = f"{number:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def identify_each(self, entries: Sequence[Identified]) -> list[str]:
        """Return the same for many entries, in less than half the time."""
        halves = [half for entry in entries for half in _halves(entry)]
        plain = int.from_bytes(struct.pack(f">{len(halves)}Q", *halves))
        mixed = plain ^ int.from_bytes(self._mask * len(entries))
        return show_uuids(mixed.to_bytes(16 * len(entries)))

    def identify_group(self, entries: Iterable[Identified]) -> str:
        """Return the id of the delivery of several entries that were gathered."""
        shown = ", ".join(f"'{one.id} {_show(one.published_at)}'" for one in entries)
        # What is hashed is the repr of the subscription's id, its channel, and a list of entries.
        hashed = self._hash.copy()
        hashed.update(f"[{shown}])".encode())
        return show_uuids(with_version(hashed.digest()[:16], 5))[0]


def with_version(data: bytes, version: int) -> bytes:
    """Return the bytes of UUIDs with other bits where the version and the variant are.

    Args:
        data: Sixteen bytes for each UUID.
        version: 4, 5 or 8.
    """
    changed = bytearray(data)
    changed[6::16] = changed[6::16].translate(_WITH_VERSION[version])
    changed[8::16] = changed[8::16].translate(_WITH_VARIANT)
    return bytes(changed)


def show_uuids(data: bytes) -> list[str]:
    """Return UUIDs as `str(uuid)` does, in a tenth of the time.

    Args:
        data: Sixteen bytes for each UUID.
    """
    return b" ".join(map(b"-".join, _PARTS.iter_unpack(data.hex().encode()))).decode().split()


def _halves(entry: Identified) -> tuple[int, int]:
    """Return the halves of an id before the mask: zero where the version and the variant go."""
    at = 0 if entry.published_at is None else (entry.published_at - _EPOCH) // _MICROSECOND
    return (at & _LOW) << 16 | at >> 48 & _HIGH, entry.id


def _show(at: datetime | None) -> str:
    return "" if at is None else msgspec.json.encode(at.astimezone(UTC)).decode()
