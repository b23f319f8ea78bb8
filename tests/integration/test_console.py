"""The console in a real browser, and as somebody sees it who should not."""

import contextlib
import http.client
import json
import os
import re
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from pgnotifier._connection.parameters import Parameters
from pgnotifier._inquiry.asking import ask
from pgnotifier.cli.command import pgnotifier
from pgnotifier.console.following import MOST
from pgnotifier.console.guarding import COOKIE
from pgnotifier.console.serving import ConsoleServer, Options

TOKEN = "correct horse battery staple"
IMAGES = Path(__file__).parents[2] / "docs" / "images"
SIZE = {"width": 1280, "height": 860}
PATIENCE = 60_000  # milliseconds
KEPT = os.environ.get("PGNOTIFIER_SCREENSHOTS") == "1"
MOST_BYTES = 400_000
"""What a screenshot in the documentation may have."""


@pytest.fixture
def serve(pgnotifier_dsn, make_notifier):  # torn down before the notifiers
    """Yield a function that serves a console, and returns its server."""
    made = []

    def start(**options):
        options = {"port": 0, "interval": 0.5} | options
        beside = ConsoleServer(Parameters(pgnotifier_dsn), Options(**options)).beside()
        made.append(beside)
        return beside.__enter__()

    yield start
    for one in made:
        one.__exit__(None, None, None)


@pytest.fixture(scope="module")
def browser():
    """A browser in which every error of the page's script fails the test."""
    from browser import open_browser  # which takes long to import

    with open_browser() as found:
        yield found


@pytest.fixture
def page(browser):
    """A page of the browser, with no complaint in its console afterwards."""
    opened = browser.new_page()
    opened.set_viewport_size(SIZE)
    opened.set_default_timeout(PATIENCE)
    said = []
    opened.on("console", lambda message: said.append(message.text))
    yield opened
    opened.close()
    assert said == []


@pytest.fixture
def picture(page, tmp_path):
    """Yield a function that takes a screenshot; with PGNOTIFIER_SCREENSHOTS=1, for the docs."""

    def take(name):
        path = (IMAGES if KEPT else tmp_path) / f"{name}.png"
        shown = "host=db.shop.example dbname=shop user=listener"
        page.evaluate("shown => { $('connection').textContent = shown }", shown)
        path.parent.mkdir(exist_ok=True)
        page.screenshot(path=path)
        assert 10_000 < path.stat().st_size < MOST_BYTES

    return take


def request(server, method, path, headers=None, body=None):
    """Send a request as no browser would; return the status, the headers and the body."""
    at = urlsplit(server.address)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def secret_of(server, headers=None):
    """Return the secret of the page."""
    _, _, body = request(server, "GET", "/", headers)
    text = body.decode().partition('data-settings="')[2].partition('"')[0]
    return json.loads(text.replace("&quot;", '"').replace("&amp;", "&"))["secret"]


# --- what it shows ---


def test_overview(serve, page, picture, notifier, db, eventually):
    """Listeners, channels and their rates are there, and change by themselves."""
    got = []
    notifier.subscribe("invoice", "orders", lambda *found: got.append(found))
    notifier.subscribe("audit", "orders", lambda *found: got.append(found))
    notifier.subscribe("resize", "images <b>", lambda *found: got.append(found))
    server = serve()
    page.goto(server.address)
    page.get_by_role("status").get_by_text("listening").first.wait_for()
    page.locator("#listeners").get_by_text("listening", exact=True).wait_for()
    for number in range(40):
        db.execute("SELECT pg_notify('orders', %s)", str(number))
    page.locator("#listeners td.number", has_text="40").first.wait_for()
    page.keyboard.press("2")
    row = page.locator("#channel-table tr", has_text="orders")
    row.get_by_text("40", exact=True).wait_for()
    page.locator("#channel-table").get_by_text("images <b>", exact=True).wait_for()
    page.keyboard.press("3")
    page.locator("#subscription-table tr", has_text="resize").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("audit")
    page.locator("#subscription-table tr", has_text="resize").wait_for(state="detached")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    for number in range(300 if KEPT else 1):
        burst = 40 + 30 * (number // 20 % 3) + number % 17
        db.execute("SELECT pg_notify('orders', i::text) FROM generate_series(1, %s) i", burst)
        page.wait_for_timeout(200)
    picture("console-overview")


def keeps_focus(page, button):
    """Return whether a button of a table has the focus after the table was drawn again.

    It hasn't if its row was gone meanwhile, as a listener of a busy machine may answer too late.
    """
    button.focus()
    button.evaluate("button => { button.dataset.old = 'yes' }")
    page.locator("#channel-table button.link:not([data-old])").wait_for()
    return button.evaluate("button => button === document.activeElement")


def test_keyboard_and_theme(serve, page, notifier):
    """Everything can be reached without a mouse, in the light and in the dark."""
    notifier.subscribe("invoice", "orders", print)
    page.emulate_media(color_scheme="dark")
    page.goto(serve().address)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.keyboard.press("t")
    assert page.evaluate(ground) != dark
    page.keyboard.press("t")
    assert page.evaluate(ground) == dark
    page.locator("#tab-overview").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#channels").wait_for(state="visible")
    assert page.evaluate("document.activeElement.id") == "tab-channels"
    link = page.locator("#channel-table button.link")
    link.wait_for()
    assert any(keeps_focus(page, link) for _ in range(5)), "lost in the next look"
    page.keyboard.press("Enter")
    page.locator("#followed", has_text="orders").wait_for()
    page.keyboard.press("p")
    page.get_by_role("button", name="Go on").wait_for()


def test_notifications(serve, page, notifier, db):
    """The last notifications of a channel are shown, and payloads only if that is asked for.

    What the page listens with isn't among the listeners.
    """
    notifier.subscribe("invoice", "orders", print)
    for shows, expected in ((False, "…"), (True, '{"card": "<i>4711</i>"}')):
        page.goto(f"{serve(shows_payloads=shows).address}#channels")
        page.locator("#channel-table button.link").click()
        page.locator("#notifications", has_text="Nothing yet").wait_for()
        found = page.locator("#notifications td.long")
        for _ in range(60):
            db.execute("SELECT pg_notify('orders', '{\"card\": \"<i>4711</i>\"}')")
            page.wait_for_timeout(500)
            if found.count():
                break
        assert found.first.inner_text() == expected
        assert ("4711" in page.content()) == shows
        assert len(ask(Parameters(db.dsn), 60.0)) == 1


def test_gaps(serve, page, notifier, db, eventually):
    """A gap is in the list and on the line of the last hour."""
    notifier.subscribe("invoice", "orders", print)
    page.goto(f"{serve().address}#gaps")
    page.get_by_text("No gap since").wait_for()
    db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    eventually(lambda: notifier.status().gaps == 1)
    page.locator("#gap-table td", has_text="orders").wait_for()
    page.locator("#gap-line rect.gap").first.wait_for(state="attached")


def test_dead_letters(serve, page, notifier, log, eventually):
    """A dead letter is shown with its traceback, retried, and dropped after a question."""

    def fail(*_):
        raise RuntimeError("no stock <b>left</b>")

    notifier.subscribe("invoice", "orders", fail, durable=True, max_attempts=1)
    log.publish("orders", 1)
    log.publish("orders", 2)
    eventually(lambda: [one.dead for one in notifier.status().durable] == [2])
    page.goto(f"{serve().address}#dead")
    rows = page.locator("#dead-table tbody tr")
    rows.nth(1).wait_for()
    rows.first.click()
    page.locator("#dead-letter", has_text="no stock <b>left</b>").wait_for()
    assert "hidden" in page.locator("#dead-letter").inner_text()
    done = []
    notifier.subscribe("invoice", "orders", lambda *found: done.append(found), durable=True)
    page.locator("#dead-table input").first.check()
    page.locator("#dead-retry").click()
    page.locator("#dead-said", has_text="1 delivered again").wait_for()
    eventually(lambda: len(done) == 1)
    page.locator("#dead-load").click()
    page.locator("#dead-table input").first.check()
    page.locator("#dead-drop").click()
    page.get_by_role("button", name="Cancel").click()
    assert rows.count() == 1
    page.locator("#dead-drop").click()
    page.locator("#confirm").get_by_role("button", name="Drop").click()
    page.get_by_text("No dead letter.").wait_for()


def test_muting(serve, page, make_notifier, pgnotifier_dsn, db, eventually):
    """A channel is muted and unmuted by its button, if the listener allows it."""
    got = []
    notifier = make_notifier(pgnotifier_dsn, remote_commands=True)
    notifier.subscribe("invoice", "orders", lambda *found: got.append(found))
    page.goto(f"{serve().address}#channels")
    page.get_by_role("button", name="Mute", exact=True).click()
    page.get_by_role("button", name="Unmute").wait_for()
    db.execute("NOTIFY orders")
    eventually(lambda: notifier.status().received == 1)
    page.get_by_role("button", name="Unmute").click()
    page.get_by_role("button", name="Mute", exact=True).wait_for()
    db.execute("NOTIFY orders")
    eventually(lambda: len(got) == 1)


def test_many(serve, page, picture, notifier, db):
    """With 200 channels and 1,000 subscriptions it can still be read and used."""
    for number in range(1000):
        notifier.subscribe(f"task-{number}", f"channel_{number % 200:03}", print, autorun=False)
    notifier.start()
    page.goto(f"{serve().address}#subscriptions")
    page.get_by_text("200 of 1,000").wait_for()
    page.get_by_role("button", name="show all").click()
    page.get_by_text("1,000 rows").wait_for()
    page.locator("#filter").fill("task-77")
    page.get_by_text("11 rows").wait_for()
    page.locator("#filter").fill("")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("Escape")
    page.locator("#tab-channels").click()
    page.locator("#channel-table").get_by_text("200 rows").wait_for()
    db.execute(
        "SELECT pg_notify('channel_' || lpad((i * i % 200)::text, 3, '0'), i::text) "
        "FROM generate_series(1, 5000) i"
    )
    page.locator("#channel-table td", has_text=re.compile(r"^[1-9]")).first.wait_for()
    picture("console-many")


# --- whom it refuses ---


@pytest.mark.parametrize("path", ["/", "/events", "/api/dead", "/static/console.js"])
def test_a_name_that_leads_here(serve, path):
    """A page that has its own name lead here gets nothing."""
    status, headers, body = request(serve(), "GET", path, {"host": "evil.example"})
    assert (status, headers["content-type"]) == (421, "application/json")
    assert b"secret" not in body


@pytest.mark.parametrize("name", ["[", "[::1", "127.0.0.1:x"])
def test_a_name_that_is_none(serve, name, caplog):
    """A header that isn't a name is refused or ignored, without a traceback in the log."""
    assert request(serve(), "GET", "/", {"host": name})[0] in (200, 421)
    assert not caplog.records


def test_followers_are_not_shown(serve, pgnotifier_dsn, db, eventually):
    """Whoever looks at a channel isn't shown as a listener, as nothing is done there."""
    at = urlsplit(serve().address)
    with socket.create_connection((at.hostname, at.port)) as stream:
        stream.sendall(b"GET /api/notifications?channel=orders HTTP/1.1\r\nhost: localhost\r\n\r\n")
        stream.settimeout(0.1)
        seen = bytearray()

        def has_arrived():
            db.notify("orders", "1")
            with contextlib.suppress(TimeoutError):
                seen.extend(stream.recv(65_536))
            return b"event: notification" in seen

        eventually(has_arrived)
        assert ask(Parameters(pgnotifier_dsn)) == []


def test_ends_with_open_streams(pgnotifier_dsn, capfd, eventually):
    """Streams end with the console, without a traceback; of many followers, some are refused."""
    with ConsoleServer(Parameters(pgnotifier_dsn), Options(port=0)).beside() as server:
        at = urlsplit(server.address)
        paths = ["/events", *["/api/notifications?channel=orders"] * (MOST + 1)]
        streams = [socket.create_connection((at.hostname, at.port)) for _ in paths]
        for stream, path in zip(streams, paths, strict=True):
            stream.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        seen = bytearray()

        def is_refused():
            for one in streams[1:]:
                one.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    seen.extend(one.recv(65_536))
            return b"pages follow channels already" in seen

        eventually(is_refused)
    assert "pgnotifier-console" not in {one.name for one in threading.enumerate()}
    for stream in streams:
        stream.close()
    assert capfd.readouterr().err == ""


def test_forged_changes(serve, log):
    """Without the page's secret, or from another page, nothing is changed."""
    server = serve()
    at = urlsplit(server.address)
    good = {"x-pgnotifier-token": secret_of(server), "origin": f"http://{at.netloc}"}
    body = json.dumps({"numbers": [1]})
    assert request(server, "POST", "/api/dead/drop", good, body)[0] == 200
    for headers in (
        {},
        good | {"origin": "http://evil.example"},
        good | {"x-pgnotifier-token": "x"},
    ):
        assert request(server, "POST", "/api/dead/drop", headers, body)[0] == 403
    assert request(server, "GET", "/api/dead/drop", good)[0] == 405
    for bad in (b"", b"x", b"{}", b'{"numbers": ["1"]}', b'{"numbers": [1], "more": 1}'):
        assert request(server, "POST", "/api/dead/drop", good, bad)[0] == 400
    assert request(server, "POST", "/api/dead/drop", good, b" " * 200_000)[0] == 400


def test_read_only(serve, log):
    """A console that is read-only changes nothing, even for its own page."""
    server = serve(read_only=True)
    headers = {"x-pgnotifier-token": secret_of(server)}
    status, _, body = request(server, "POST", "/api/dead/drop", headers, '{"numbers": [1]}')
    assert (status, json.loads(body)) == (403, {"problem": "this console is read-only"})


def test_token(serve, page, notifier):
    """With a token, only the address with it opens the page; the cookie isn't for scripts."""
    server = serve(token=TOKEN)
    assert request(server, "GET", "/")[0] == 401
    assert request(server, "GET", "/?token=x")[0] == 401
    page.goto(server.url)
    assert page.url == server.address + "#overview"
    page.get_by_role("status").get_by_text("·").first.wait_for()
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (COOKIE, True, "Strict")
    page.context.clear_cookies()


def test_headers(serve):
    """No answer may be shown in a frame, kept, or taken for another type."""
    for path in ("/", "/static/console.css", "/nothing", "/api/dead/1"):
        _, headers, _ = request(serve(), "GET", path)
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_a_port_in_use(pgnotifier_dsn, serve):
    """The environment names the port, and a port that is in use is refused with the way out."""
    env = {"PGNOTIFIER_CONSOLE_PORT": str(urlsplit(serve().address).port)}
    done = CliRunner().invoke(pgnotifier, ["console", "--dsn", pgnotifier_dsn], env=env)
    assert done.exit_code == 2
    assert "another program has that port; choose one by PGNOTIFIER_CONSOLE_PORT" in done.output


def test_no_password(pgnotifier_dsn, serve):
    """The page doesn't show the password of the connection."""
    parameters = Parameters(f"{pgnotifier_dsn} password=hunter2hunter2")
    with ConsoleServer(parameters, Options(port=0)).beside() as server:
        _, _, body = request(server, "GET", "/")
    assert b"hunter2" not in body
