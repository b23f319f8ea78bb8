"""Check how deep brackets nest, before a parser that recurses in C sees the text."""

JSON_DEPTH = 200
"""How deep JSON may nest. msgspec also recurses in C; see `LITERAL_DEPTH`."""

LITERAL_DEPTH = 50
"""How deep a literal may nest. CPython's parser recurses in C, and a thread's stack may be small
(512 KiB on macOS). With a stack of 256 KiB, it crashes the process at 150 levels."""

_OPENING = b"[{"
_BRACKETS = b"([{)]}"
_SPACED = 400
"""A text has few brackets if it has at least this many bytes for each of them."""

_NO_OPENING = bytes(set(range(256)) - set(_OPENING))
_NO_BRACKET = bytes(set(range(256)) - set(_BRACKETS))
_NO_MARK = bytes(set(range(256)) - set(_BRACKETS + b'"'))
_ALIKE = bytes.maketrans(_BRACKETS, b"[[[]]]")


def nests_within(depth: int, code: bytes) -> bool:
    """Return whether the brackets in `code` pair up and nest no deeper than `depth`."""
    brackets = code.translate(_ALIKE, _NO_BRACKET)
    for _ in range(depth):
        before, brackets = len(brackets), brackets.replace(b"[]", b"")
        if len(brackets) == before:
            break
    return not brackets


def is_shallow_json(data: bytes) -> bool:
    """Return whether JSON is certain to nest no deeper than `JSON_DEPTH`.

    The cheapest checks come first: most texts are short, or contain few brackets.
    """
    return (
        len(data) <= JSON_DEPTH
        # All opening brackets are within the first bytes, and there are too few of these bytes.
        or (data.rfind(b"{") < JSON_DEPTH and data.rfind(b"[") < JSON_DEPTH)
        or _has_few_brackets(data)
        or len(data.translate(None, _NO_OPENING)) <= JSON_DEPTH
        or nests_within(JSON_DEPTH, _json_brackets(data))
    )


def _has_few_brackets(data: bytes) -> bool:
    # Unlike `count`, `find` compares many bytes at a time, but each call has a cost.
    left = len(data) // _SPACED
    for bracket in _OPENING:
        at = data.find(bracket)
        while at >= 0:
            if not left:
                return False
            left -= 1
            at = data.find(bracket, at + 1)
    return True


def _json_brackets(data: bytes) -> bytes:
    """Return the brackets of JSON outside of its strings, perhaps with quotes among them."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(None, _NO_MARK)
    # All quotes are in adjacent pairs, so no string contains a bracket. (`nests_within` ignores
    # the quotes.)
    if 2 * marks.count(b'""') == marks.count(b'"'):
        return marks
    # Two adjacent quotes cancel out wherever they are, which leaves few to split at.
    return b"".join(marks.replace(b'""', b"").split(b'"')[::2])
