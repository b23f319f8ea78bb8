"""Redaction: no message, log record or status shows a password, whoever wrote its text."""

import re
from urllib.parse import quote, unquote

HIDDEN = "***"

# A password in a URL that wasn't percent-encoded may hold anything, so that it ends at the line's
# last @; or, in a text that was cut off, at its end. A port is none.
_IN_URL = re.compile(
    r"(?P<kept>(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,40}://[^\s:/@\[]*:)"
    r"(?!\d{1,5}(?:[/?#][^\s@]*)?(?:[\s'\",;)\]}>]|$))"
    r"(?:[^\n]*(?=@)|[^\n@]+)",
    re.IGNORECASE,
)
# As in the query of a URL, a connection string, or the repr of a dict or a connection.
_NAMED = re.compile(
    r"(?P<kept>(?:password|passwd|secret|token)\w*(?:\s*=\s*|['\"]\s*:\s*))"
    r"(?:'(?:[^'\\\n]|\\.)*'?|\"(?:[^\"\\\n]|\\.)*\"?|[^\s,;&)}]+)",
    re.IGNORECASE,
)
# What Python says of a URL with a slash in the password:
# https://docs.python.org/3/library/urllib.parse.html#urllib.parse.urlsplit
_AS_PORT = re.compile(r"(?P<kept>Port could not be cast to integer value as )[^\n]*")


def redact(text: object, *secrets: str) -> str:
    """Return a text without the passwords in it.

    Hides those of URLs, and the values of whatever is called a password, a secret or a token.

    Args:
        text: What may hold some.
        secrets: Others that are known.
    """
    shown = str(text)
    for secret in secrets:
        for form in (secret, quote(secret, safe=""), unquote(secret)):
            if form:
                shown = shown.replace(form, HIDDEN)
    for pattern in (_IN_URL, _NAMED, _AS_PORT):
        shown = pattern.sub(rf"\g<kept>{HIDDEN}", shown)
    return shown


def show(value: object, limit: int = 80) -> str:
    """Return the repr of a value, without passwords, cut off at so many characters."""
    return redact(repr(value))[:limit]
