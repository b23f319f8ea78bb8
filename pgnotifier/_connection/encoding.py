"""Convert between UTF-8 and the encoding of a database that uses another one.

The server could convert as well, but the first byte without an equivalent in UTF-8 would then end
the session: https://www.postgresql.org/docs/current/multibyte.html#MULTIBYTE-CONVERSIONS-SUPPORTED.
"""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

_IBM = (
    "ⅰⅱⅲⅳⅴⅵⅶⅷⅸⅹⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩ\uff07\uff02㈱№℡炻仼僴凬匇匤\ufa0e咊坙\ufa0f\ufa10增"
    "寬峵嵓\ufa11德悅愠敎昻晥\ufa12\uf929栁\ufa13\ufa14橫櫢淸淲瀨\ufa15\ufa16甁皂皞\ufa17礰"
    "\ufa18\ufa19\ufa1a\ufa1b竧\ufa1c\ufa1d綠緖\ufa1e荢\ufa1f薰\ufa20\ufa21蠇\ufa22譿賴赶"
    "\ufa23\ufa24\ufa25郞\ufa26鄕\ufa27\ufa28閒\uf9dc\ufa29霻靍靑\ufa2a\ufa2b\ufa2c馞髙魲"
    "\ufa2d黑"
)
"""IBM's additions to JIS X 0212, from row 83 on. Python's codec lacks them."""


def _row_13() -> Mapping[bytes, str]:
    """Return NEC's row 13 of EUC_JP. Python has it in its codec for Shift JIS only."""
    found = {}
    for cell in range(1, 95):
        shifted = bytes((0x87, cell + 0x3F + (cell > 63)))
        if text := shifted.decode("cp932", "ignore"):
            found[bytes((0xAD, 0xA0 + cell))] = text
    return found


def _ibm() -> Mapping[bytes, str]:
    found = {}
    for at, char in enumerate(_IBM):
        row, cell = divmod(82 * 94 + 82 + at, 94)
        found[bytes((0x8F, 0xA1 + row, 0xA1 + cell))] = char
    return found


_THREE_BYTES = 0x8F
"""The first byte of a three-byte character in the Japanese EUC encodings."""

_MISSING: Mapping[str, Mapping[bytes, str]] = {
    "EUC_JP": {**_ibm(), **_row_13()},
    "EUC_KR": {b"\xa2\xe8": "㉾", b"\xa4\xd4": "\u3164"},
}
"""Characters that PostgreSQL has and Python's codec lacks."""

_MAPPED_DIFFERENTLY: Mapping[str, Mapping[int, int]] = {
    "EUC_JP": str.maketrans("〜‖−¢£¬¦", "～∥－￠￡￢￤"),  # noqa: RUF001
    "EUC_JIS_2004": str.maketrans("￣―￥⦅⦆", "‾—¥｟｠"),
}
"""Characters that Python's codec maps differently: Python's, and PostgreSQL's."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A database's encoding.

    Attributes:
        name: Its name in PostgreSQL.
        client: The `client_encoding` with which the server converts nothing.
        codec: The name of Python's codec.
        errors: The error handler for what the codec can't decode or encode.
    """

    name: str
    client: str
    codec: str
    errors: str
    _reading: Mapping[int, int] = field(default_factory=dict)
    _writing: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_utf8(self) -> bool:
        """Whether its bytes are UTF-8, which the rest of the package works with."""
        return self.codec == "utf-8"

    def decode(self, data: bytes) -> str:
        """Return the text. Invalid bytes become lone surrogates."""
        text = data.decode(self.codec, self.errors)
        return text.translate(self._reading) if self._reading else text

    def to_utf8(self, data: bytes) -> bytes:
        """Return the text in UTF-8. Invalid bytes are kept as they are.

        If invalid bytes happen to form a valid UTF-8 character together, they become U+FFFD.
        """
        if self.is_utf8:
            return data
        text = self.decode(data)
        recoded = text.encode("utf-8", "surrogateescape")
        if recoded.decode("utf-8", "surrogateescape") == text:
            return recoded
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()

    def encode(self, text: str) -> bytes:
        """Return the bytes.

        Raises:
            UnicodeEncodeError: The encoding lacks a character of the text.
        """
        # Surrogates are not turned back into bytes: names and queries are proper text.
        errors = "strict" if self.errors == "surrogateescape" else self.errors
        return text.translate(self._writing).encode(self.codec, errors)


@lru_cache
def find_encoding(name: str) -> Encoding:
    """Return the encoding with this name in PostgreSQL.

    SQL_ASCII doesn't define what the bytes mean; they are read as UTF-8. Python has no codec for
    EUC_TW and MULE_INTERNAL: only their ASCII characters are decoded.
    """
    if name in ("UTF8", "SQL_ASCII"):
        return Encoding(name, name, "utf-8", "surrogateescape")
    try:
        codec = codecs.lookup(name.replace("WIN", "cp").replace("KOI8", "koi8_")).name
    except LookupError:
        return Encoding(name, "SQL_ASCII", "ascii", "surrogateescape")
    reading = _MAPPED_DIFFERENTLY.get(name, {})
    writing = {known: own for own, known in reading.items()}
    return Encoding(name, name, codec, _register(name), reading, writing)


def _register(name: str) -> str:
    """Register an error handler for a codec, and return the handler's name."""
    if not name.startswith("EUC"):
        return "surrogateescape"
    added = _MISSING.get(name, {})
    written = {char: data for data, char in added.items()}

    def handle(exc: UnicodeError) -> tuple[str | bytes, int]:
        if isinstance(exc, UnicodeEncodeError) and (data := written.get(exc.object[exc.start])):
            return data, exc.start + 1
        if not isinstance(exc, UnicodeDecodeError):
            raise exc
        # Skip the whole character: its second byte could be mistaken for the start of another.
        size = 3 if exc.object[exc.start] == _THREE_BYTES else 2
        unknown = exc.object[exc.start : exc.start + size]
        return added.get(unknown) or unknown.decode("ascii", "surrogateescape"), exc.start + len(
            unknown
        )

    codecs.register_error(f"pgnotifier-{name}", handle)
    return f"pgnotifier-{name}"
