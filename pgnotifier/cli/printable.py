"""Escape untrusted texts, so that a terminal shows control characters instead of obeying them."""


def printable(text: str, limit: int = 0) -> str:
    r"""Return a text with escapes for what can't be printed: `\x1b`, `\n`, `\u202e`.

    Args:
        text: A text that may come from anybody.
        limit: How many characters it may have; 0 for any number.
    """
    shown = text if text.isprintable() else "".join(map(_show_character, text))
    return f"{shown[: limit - 1]}…" if 0 < limit < len(shown) else shown


def _show_character(one: str) -> str:
    return one if one.isprintable() else one.encode("unicode_escape").decode()
