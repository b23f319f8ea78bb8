"""Redaction: no message, log record or status shows a password, whoever wrote its text."""

import re
from urllib.parse import quote, unquote

HIDDEN = "***"

# A password in a URL that wasn't percent-encoded may contain anything, so it ends at the last @ of
# the line; or, in a text that was cut off, at the end. A port isn't taken for a password.
_IN_URL = re.compile(
    r"(?P<kept>(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,40}://[^\s:/@\[]*:)"
    r"(?!\d{1,5}(?:[/?#][^\s@]*)?(?:[\s'\",;)\]}>]|$))"
    r"(?:[^\n]*(?=@)|[^\n@]+)",
    re.IGNORECASE,
)
# A named secret, as in the query of a URL, a connection string, or the repr of a dict.
_NAMED = re.compile(
    r"(?P<kept>(?:password|passwd|secret|token)\w*(?:\s*=\s*|['\"]\s*:\s*))"
    r"(?:'(?:[^'\\\n]|\\.)*'?|\"(?:[^\"\\\n]|\\.)*\"?|[^\s,;&)}]+)",
    re.IGNORECASE,
)
# Python's error message about a URL with a slash in the password:
# https://docs.python.org/3/library/urllib.parse.html#urllib.parse.urlsplit
_AS_PORT = re.compile(r"(?P<kept>Port could not be cast to integer value as )[^\n]*")

_SHORT = 8


def redact(text: object, *secrets: str) -> str:
    """Return a text without the passwords in it.

    Hides those of URLs, and the values of everything that is called a password, secret or token.

    Args:
        text: A text that may contain some.
        secrets: Other known secrets, to be hidden too.
    """
    shown = str(text)
    forms = {form for one in secrets for form in (one, quote(one, safe=""), unquote(one)) if form}
    if forms:  # in one pass, longest first: one may be a part of another, or of HIDDEN
        found = "|".join(map(_find_secret, sorted(forms, key=len, reverse=True)))
        shown = re.sub(found, HIDDEN, shown)
    for pattern in (_IN_URL, _NAMED, _AS_PORT):
        shown = pattern.sub(rf"\g<kept>{HIDDEN}", shown)
    return shown


def _find_secret(secret: str) -> str:
    """Return the pattern of a secret: a short one as a whole word, a longer one anywhere.

    A short one may be a part of ordinary words. Hiding it there would garble the message, and give
    the secret away.
    """
    found = re.escape(secret)
    # The repr of a text writes a line break before the secret with a letter.
    return found if len(secret) >= _SHORT else rf"(?:(?<!\w)|(?<=\\[nrt])){found}(?!\w)"


def show(value: object, limit: int = 80) -> str:
    """Return the repr of a value, without passwords, cut off after `limit` characters."""
    return redact(repr(value))[:limit]
