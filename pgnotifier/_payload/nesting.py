"""How deep brackets nest, told before a parser looks: those of JSON and Python recurse in C."""

JSON_DEPTH = 200
"""How deep JSON may nest: msgspec, too, recurses in C. See `LITERAL_DEPTH`."""

LITERAL_DEPTH = 50
"""How deep a literal may. CPython's parser recurses in C, and a thread's stack may be small
(512 KiB on macOS): in one of 256 KiB, it crashes the process at 150 levels."""

_OPENING = b"[{"
_BRACKETS = b"([{)]}"
_SPACED = 400
"""How many bytes a bracket has on average where there are few of them."""

_NO_OPENING = bytes(set(range(256)) - set(_OPENING))
_NO_BRACKET = bytes(set(range(256)) - set(_BRACKETS))
_NO_MARK = bytes(set(range(256)) - set(_BRACKETS + b'"'))
_ALIKE = bytes.maketrans(_BRACKETS, b"[[[]]]")


def nests_within(depth: int, code: bytes) -> bool:
    """Tell whether the brackets in `code` pair up and nest no deeper than `depth`."""
    brackets = code.translate(_ALIKE, _NO_BRACKET)
    for _ in range(depth):
        before, brackets = len(brackets), brackets.replace(b"[]", b"")
        if len(brackets) == before:
            break
    return not brackets


def is_shallow_json(data: bytes) -> bool:
    """Tell whether JSON is certain to nest no deeper than `JSON_DEPTH`.

    What costs least comes first: most texts are short, or hold few brackets.
    """
    return (
        len(data) <= JSON_DEPTH
        # None that opens comes later than so many bytes, of which each opens one at most.
        or (data.rfind(b"{") < JSON_DEPTH and data.rfind(b"[") < JSON_DEPTH)
        or _has_few_brackets(data)
        or len(data.translate(None, _NO_OPENING)) <= JSON_DEPTH
        or nests_within(JSON_DEPTH, _json_brackets(data))
    )


def _has_few_brackets(data: bytes) -> bool:
    # Unlike `count`, `find` looks at many bytes at a time; but each call has its price.
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
    """Return the brackets of JSON that stand outside its strings, and maybe quotes."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(None, _NO_MARK)
    # Quotes in pairs alone: no string holds a bracket. (`nests_within` leaves out the quotes.)
    if 2 * marks.count(b'""') == marks.count(b'"'):
        return marks
    # Two adjacent quotes cancel out, wherever they stand, which leaves few to split at.
    return b"".join(marks.replace(b'""', b"").split(b'"')[::2])
