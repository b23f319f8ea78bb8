"""Read the payloads for `pgnotifier send`: one per line of a file or of standard input."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pgnotifier.errors import PgNotifierError

BLOCK = 1 << 16
"""How many bytes are read at once, at most. What a pipe has is sent at once."""
LONGEST = 64 << 20
"""The most bytes of a line: as many as an entry of the log can have."""
JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})
_BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line.

    Attributes:
        number: Its number, from 1 on.
        text: What it contains, without the end of the line.
    """

    number: int
    text: str


class BadLineError(ValueError):
    """A line can't be sent. The message names its number."""


class LineReader:
    """Reads lines and checks them. Blank lines are left out."""

    def __init__(self, check: Callable[[str], str], *, is_json: bool) -> None:
        """Make a reader.

        Args:
            check: Returns a text, or raises PgNotifierError if it can't be sent.
            is_json: Whether each line has to be JSON.
        """
        self._check = check
        self._is_json = is_json

    def read(self, source: BinaryIO) -> Iterator[list[Line]]:
        """Yield lines, in lists of those that have arrived together.

        Raises:
            BadLineError: A line can't be sent. Those before it were yielded.
        """
        number, rest = 0, bytearray()
        while block := os.read(source.fileno(), BLOCK):
            *whole, last = block.split(b"\n")
            if whole:
                whole[0] = bytes(rest) + whole[0]
                rest.clear()
                yield from self._make(whole, number)
                number += len(whole)
            rest += last
            if len(rest) > LONGEST:
                raise BadLineError(f"line {number + 1} has over {LONGEST >> 20} MiB")
        if rest:
            yield from self._make([bytes(rest)], number)

    def _make(self, whole: Sequence[bytes], before: int) -> Iterator[list[Line]]:
        made: list[Line] = []
        for number, data in enumerate(whole, before + 1):
            try:
                text = self._read(data.removeprefix(_BOM) if number == 1 else data)
            except (ValueError, RecursionError, PgNotifierError) as exc:
                if made:
                    yield made
                raise BadLineError(f"line {number}: {_explain(exc)}") from None
            if text:
                made.append(Line(number, text))
        if made:
            yield made

    def _read(self, data: bytes) -> str:
        text = data.decode().removesuffix("\r")
        if not text.strip():
            return ""
        if self._is_json:
            json.loads(text)
        return self._check(text)


def has_json(path: Path) -> bool:
    """Return whether each line of a file has to be JSON, by its name."""
    return path.suffix.lower() in JSON_SUFFIXES


def _explain(exc: Exception) -> str:
    if isinstance(exc, UnicodeDecodeError):
        return "it isn't valid UTF-8"
    if isinstance(exc, json.JSONDecodeError):
        return f"it isn't JSON: {exc.msg} at column {exc.colno}"
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    return str(exc)
