"""Encodings: the bytes of a database that isn't in UTF-8, read and written here.

Were the server to convert them to UTF-8, the first byte that has no equivalent would end the
session: https://www.postgresql.org/docs/current/multibyte.html#MULTIBYTE-CONVERSIONS-SUPPORTED.
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
"""IBM's additions to JIS X 0212, from row 83 on, which Python's codec doesn't know."""


def _row_13() -> Mapping[bytes, str]:
    """Return NEC's row 13 of EUC_JP, which Python knows as a part of Shift JIS alone."""
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
"""The first byte of a character of three, in those of Japan."""

_ADDED: Mapping[str, Mapping[bytes, str]] = {
    "EUC_JP": {**_ibm(), **_row_13()},
    "EUC_KR": {b"\xa2\xe8": "㉾", b"\xa4\xd4": "\u3164"},
}
"""What PostgreSQL knows and Python doesn't."""

_OTHERWISE: Mapping[str, Mapping[int, int]] = {
    "EUC_JP": str.maketrans("〜‖−¢£¬¦", "～∥－￠￡￢￤"),  # noqa: RUF001
    "EUC_JIS_2004": str.maketrans("￣―￥⦅⦆", "‾—¥｟｠"),
}
"""What Python takes for another character than PostgreSQL does."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A database's encoding.

    Attributes:
        name: What PostgreSQL calls it.
        client: The `client_encoding` with which nothing is converted.
        codec: What Python calls it.
        errors: How what the codec doesn't know is read and written.
    """

    name: str
    client: str
    codec: str
    errors: str
    _reading: Mapping[int, int] = field(default_factory=dict)
    _writing: Mapping[int, int] = field(default_factory=dict)

    @property
    def is_utf8(self) -> bool:
        """Whether its bytes are what the rest of the package takes for text."""
        return self.codec == "utf-8"

    def decode(self, data: bytes) -> str:
        """Return the text; bytes that aren't any become lone surrogates."""
        return data.decode(self.codec, self.errors).translate(self._reading)

    def to_utf8(self, data: bytes) -> bytes:
        """Return the text in UTF-8, with bytes that aren't any as they are.

        Where these would make a character together, by accident, they are U+FFFD.
        """
        text = self.decode(data)
        recoded = text.encode("utf-8", "surrogateescape")
        if recoded.decode("utf-8", "surrogateescape") == text:
            return recoded
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()

    def encode(self, text: str) -> bytes:
        """Return the bytes.

        Raises:
            UnicodeEncodeError: It has no such character.
        """
        # Bytes that were read as surrogates aren't written: names and queries are text.
        errors = "strict" if self.errors == "surrogateescape" else self.errors
        return text.translate(self._writing).encode(self.codec, errors)


@lru_cache
def find_encoding(name: str) -> Encoding:
    """Return an encoding by the name that PostgreSQL has for it.

    SQL_ASCII says nothing of the bytes: taken for UTF-8. Of EUC_TW and MULE_INTERNAL, which Python
    doesn't know, only what is ASCII is read.
    """
    if name in ("UTF8", "SQL_ASCII"):
        return Encoding(name, name, "utf-8", "surrogateescape")
    try:
        codec = codecs.lookup(name.replace("WIN", "cp").replace("KOI8", "koi8_")).name
    except LookupError:
        return Encoding(name, "SQL_ASCII", "ascii", "surrogateescape")
    reading = _OTHERWISE.get(name, {})
    writing = {known: own for own, known in reading.items()}
    return Encoding(name, name, codec, _register(name), reading, writing)


def _register(name: str) -> str:
    """Register how the errors of a codec are handled, and return what that is called."""
    if not name.startswith("EUC"):
        return "surrogateescape"
    added = _ADDED.get(name, {})
    written = {char: data for data, char in added.items()}

    def handle(exc: UnicodeError) -> tuple[str | bytes, int]:
        if isinstance(exc, UnicodeEncodeError) and (data := written.get(exc.object[exc.start])):
            return data, exc.start + 1
        if not isinstance(exc, UnicodeDecodeError):
            raise exc
        # As a whole: the second byte of what is unknown would else begin another character.
        size = 3 if exc.object[exc.start] == _THREE_BYTES else 2
        unknown = exc.object[exc.start : exc.start + size]
        return added.get(unknown) or unknown.decode("ascii", "surrogateescape"), exc.start + len(
            unknown
        )

    codecs.register_error(f"pgnotifier-{name}", handle)
    return f"pgnotifier-{name}"
