"""Who may see the page, and which requests may change something.

On this machine alone (the default), everybody with an account on it may see the page. Web pages of
others can't: the name that the browser has asked for is checked, and what changes something needs a
secret that only the page has. On any other address, the console needs a token, or a proxy in front
that says who the user is.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from pgnotifier.errors import ConfigurationError

COOKIE = "pgnotifier_console"
TOKEN_HEADER = "x-pgnotifier-token"  # noqa: S105 - the header's name
"""The header with the secret of the page, for requests that change something."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Sent with each answer."""
LEAST_TOKEN = 16
"""How many characters a token has at least."""
_LOCAL = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Decides whether a request is answered."""

    def __init__(
        self,
        host: str,
        token: str | None = None,
        user_header: str | None = None,
        names: Iterable[str] = (),
    ) -> None:
        """Check the settings.

        Args:
            host: The address that the console listens on.
            token: What whoever wants to see the page has to know.
            user_header: The header in which a proxy says who the user is. Only a proxy may be able
                to reach the console then. If there is a token as well, both are needed.
            names: Further names by which browsers may ask for it.

        Raises:
            ConfigurationError: It would be open to other machines, or the token is too short.
        """
        if token is not None and len(token) < LEAST_TOKEN:
            raise ConfigurationError(f"the token must have {LEAST_TOKEN} characters or more")
        if not is_loopback(host) and token is None and user_header is None:
            raise ConfigurationError(
                f"{host} can be reached from other machines: give a --token, or the --user-header "
                "of a proxy that knows the user"
            )
        self._token = token
        self._user_header = user_header.lower() if user_header else None
        # Behind a proxy, or on any address, the browser has asked for a name that isn't known here.
        is_local = is_loopback(host) and user_header is None
        known = (one.lower() for one in (*_LOCAL, host, *names))
        self._names = {*known} if is_local else None
        self.secret = secrets.token_urlsafe(32)

    def find_problem(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return the status and the text of a refusal; None if the request may be answered."""
        name = _find_name(headers.get("host", ""))
        if self._names is not None and name not in self._names:
            return 421, f"this console isn't called {name!r}; start it with --name {name}"
        if self._user_header is not None and not headers.get(self._user_header):
            return 401, f"the proxy in front must send the header {self._user_header}"
        if self._token is not None and not self.knows(_find_token(headers)):
            return 401, "open the address that `pgnotifier console` has printed, with its token"
        return None

    def find_forgery(self, headers: Mapping[str, str]) -> str | None:
        """Return why a request that changes something may come from another page; None if not."""
        if not hmac.compare_digest(headers.get(TOKEN_HEADER, "").encode(), self.secret.encode()):
            return "the page is out of date: reload it"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return "the request comes from another page"
        return None

    def knows(self, token: str | None) -> bool:
        """Return whether this is the token."""
        return self._token is not None and hmac.compare_digest(
            (token or "").encode(), self._token.encode()
        )

    def find_user(self, headers: Mapping[str, str]) -> str:
        """Return who the user is, for the log."""
        return headers.get(self._user_header or "", "") or "somebody"


def _find_name(host: str) -> str:
    """Return the name in a header `Host`, in lower case; an empty one if there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # a bracket, for example
        return ""


def _find_token(headers: Mapping[str, str]) -> str | None:
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if cookie is None else cookie.value
