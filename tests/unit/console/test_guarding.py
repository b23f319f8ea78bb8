"""Who may see the console, and which requests may change something."""

import pytest

from pgnotifier import ConfigurationError
from pgnotifier.console.guarding import COOKIE, TOKEN_HEADER, Guard, is_loopback

TOKEN = "correct horse battery"


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("example.org", False),
    ],
)
def test_loopback(host, found):
    """Whatever another machine may reach isn't loopback."""
    assert is_loopback(host) is found


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "shop"])
def test_nothing_is_open_to_others(host):
    """On an address that others can reach, a token or a proxy is needed."""
    with pytest.raises(ConfigurationError, match="--token"):
        Guard(host)
    Guard(host, token=TOKEN)
    Guard(host, user_header="X-Forwarded-User")


def test_a_short_token():
    """A token that can be guessed is refused, and isn't shown."""
    with pytest.raises(ConfigurationError, match="16 characters") as caught:
        Guard("127.0.0.1", token="hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["localhost:8484", "127.0.0.1:8484", "[::1]:8484", "desk:1", "DESK"]
)
def test_known_names(name):
    """A browser may ask for this machine by its usual names, and by those that were given."""
    assert Guard("127.0.0.1", names=["Desk"]).find_problem({"host": name}) is None


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8484", "", "127.0.0.1.evil.example", "[", "[::1"]
)
def test_a_name_that_leads_here(name):
    """A page of somebody's can't have its own name lead to this machine."""
    status, why = Guard("127.0.0.1").find_problem({"host": name})
    assert status == 421
    assert "--name" in why


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_token(host):
    """With a token, only whoever knows it is answered."""
    guard = Guard(host, token=TOKEN)
    name = {"host": "127.0.0.1:8484"}
    for headers in ({"authorization": f"Bearer {TOKEN}"}, {"cookie": f'a=b; {COOKIE}="{TOKEN}"'}):
        assert guard.find_problem(name | headers) is None
    for headers in (
        {},
        {"authorization": "Bearer x"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer é"},
        {"cookie": f"{COOKIE}=x"},
        {"cookie": f"{COOKIE}="},
        {"cookie": ";;=\x00"},
    ):
        assert guard.find_problem(name | headers)[0] == 401


def test_proxy():
    """Behind a proxy, a request without a user isn't answered, and any name is."""
    guard = Guard("127.0.0.1", user_header="X-Forwarded-User")
    found = guard.find_problem({"host": "console.example", "x-forwarded-user": "ann"})
    assert found is None
    assert guard.find_problem({"host": "console.example"})[0] == 401
    assert guard.find_problem({"host": "console.example", "x-forwarded-user": ""})[0] == 401
    assert guard.find_user({"x-forwarded-user": "ann"}) == "ann"


def test_proxy_and_token():
    """With both, the proxy's header alone isn't enough, and neither is the token."""
    guard = Guard("0.0.0.0", token=TOKEN, user_header="X-Forwarded-User")
    host, user = {"host": "console.example"}, {"x-forwarded-user": "ann"}
    known = {"authorization": f"Bearer {TOKEN}"}
    assert guard.find_problem(host | user)[0] == 401
    assert guard.find_problem(host | known)[0] == 401
    assert guard.find_problem(host | user | known) is None


def test_forgeries():
    """What changes something needs the page's secret, and comes from the page."""
    guard = Guard("127.0.0.1")
    name = {"host": "127.0.0.1:8484"}
    good = name | {TOKEN_HEADER: guard.secret}
    assert guard.find_forgery(good) is None
    assert guard.find_forgery(good | {"origin": "http://127.0.0.1:8484"}) is None
    assert "another page" in guard.find_forgery(good | {"origin": "http://evil.example"})
    assert "another page" in guard.find_forgery(good | {"origin": "null"})
    assert "another page" in guard.find_forgery(good | {"origin": "http://["})
    assert "reload" in guard.find_forgery(name)
    assert "reload" in guard.find_forgery(name | {TOKEN_HEADER: Guard("127.0.0.1").secret})
    assert "reload" in guard.find_forgery(name | {TOKEN_HEADER: "é"})
