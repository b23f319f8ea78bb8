"""Redaction: passwords are hidden in texts from other sources."""

import pickle
import time

import pytest

from pgnotifier import ConfigurationError, ConnectionFailedError
from pgnotifier._runtime.redaction import redact, show


@pytest.mark.parametrize(
    "password",
    ["hidden", "hid/den", "hid@den", "hid%den", "hid#den", "hid den", "hid:den", "hid?den",
     "hid[den", "12345", "12/den", "hid'den", "hid;den"],
)  # fmt: skip
@pytest.mark.parametrize("user", ["", "u"])
@pytest.mark.parametrize("scheme", ["redis", "amqps", "postgresql+psycopg", "sentinel"])
def test_urls(scheme, user, password):
    """Any password in a URL is hidden; the scheme, the user and the host are shown."""
    shown = redact(f"can't reach {scheme}://{user}:{password}@server:1/0, sorry")
    assert shown == f"can't reach {scheme}://{user}:***@server:1/0, sorry"


@pytest.mark.parametrize(
    "text",
    [
        "can't reach redis://localhost:6379/0 for me@example.org",
        "http://localhost:8000/healthz",
        "http://[::1]:8000/",
        "see https://docs.example.org/a/b.html#c: it's there, me@example.org says",
        "'redis://localhost:6379', and",
        'password authentication failed for user "shop"',
        "celery@host: OK",
        "the option password= is unknown"[:20],
    ],
)
def test_what_holds_no_password(text):
    """A text without a password stays as it is, even with ports, hosts or the word itself."""
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "host=h password=hidden user=u",
        "host=h password = 'hid\\' den' user=u",
        "postgresql://u@h/db?password=hidden&sslpassword=hidden",
        "{'host': 'h', 'password': 'hidden', \"passwd\": \"hidden\", 'sslpassword': 'hidden'}",
        "Connection(host=h,password=hidden,db=0)",
        "{'api_token': 'hidden', 'client_secret': 'hidden",
        "redis://:hidden@a:1/0;redis://:hidden@b:1/0",
        "redis://a:1/0;redis://:hidden@b:1/0",
        "Port could not be cast to integer value as 'hid'",
    ],
)
def test_other_forms(text):
    """Passwords in queries, connection strings, reprs, lists and port errors are hidden."""
    assert "hid" not in redact(text)
    assert "***" in redact(text)


def test_what_was_cut_off():
    """A truncated URL shows nothing of its password."""
    url = "redis://:" + "hidden" * 30 + "@h"
    assert "hid" not in redact(repr(url)[:80])
    assert "hid" not in show(url)


def test_known_secrets():
    """Known secrets are hidden, also percent-encoded or decoded."""
    assert redact("a%2Fb a/b", "a/b") == "*** ***"
    assert redact("a%2Fb a/b", "a%2Fb") == "*** ***"


@pytest.mark.parametrize("secret", ["a", "on", "at", "role", "connect", ".", "*", "é"])
def test_short_secrets(secret):
    """A short secret is hidden where it stands alone, but not within words."""
    text = "connection to 10.0.0.1 failed: authentication of role_é7 denied"
    assert redact(text, secret) == text
    for shown in (f"'{secret}'", f"={secret} ", f"@{secret}:", f"\\n{secret}\\n", f"\n{secret}"):
        assert redact(shown, secret) == shown.replace(secret, "***")


def test_long_secrets():
    """A long secret is hidden everywhere, even if it contains another one."""
    assert redact("xhunter22hunter22y", "hunter22") == "x******y"
    assert redact("hunter22 and hunter22hunter22", "hunter22", "hunter22hunter22") == "*** and ***"


@pytest.mark.parametrize("kind", [ConfigurationError, ConnectionFailedError])
def test_errors(kind):
    """The messages of the package's errors hide passwords, also after pickling."""
    exc = kind("can't reach redis://:hidden@h")
    assert str(exc) == str(pickle.loads(pickle.dumps(exc))) == "can't reach redis://:***@h"


def test_long_texts():
    """Redacting a text as long as a payload takes little time."""
    begun = time.process_time()
    for piece in ("a", "a://", "a://:", "password", "password='", "a://b:1", "Port "):
        redact(piece * (8000 // len(piece)))
    assert time.process_time() - begun < 1
