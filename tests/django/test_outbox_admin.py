"""The admin's pages about outboxes."""

import html
import json
import re
from datetime import timedelta
from io import StringIO

import pytest
from celery import Celery
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connection
from django.test import Client
from test_log_admin import LETTERS, as_role, fail, page_of, user_with

from pgnotifier._log import outbox_queries, positions
from pgnotifier._log.outbox_queries import outboxes
from pgnotifier.contrib.celery import CeleryOutbox
from pgnotifier.contrib.django.durable import outbox_admin, outbox_choice
from pgnotifier.contrib.django.durable.operations import open_driver
from pgnotifier.contrib.django.notifiers import get_notifier

OUTBOXES = "/admin/pgnotifier_durable/outbox/"
NAME, CHANNEL = "outbox:celery:shop", "pgnotifier:celery:default"
SECRET = "jane@example.com"
BAD = "<script>alert(1)</script>"


def redact(task, args, kwargs):
    """Show the names of keyword arguments."""
    return "hidden by the project", [*kwargs]


@pytest.fixture
def driver(db):
    """Return the driver's connection to the default database, in the test's transaction."""
    return open_driver(connection)


class Shop:
    """An outbox with entries."""

    def __init__(self, driver):
        self.driver = driver
        self.sub = positions.subscribe(driver, NAME, CHANNEL)
        self.url = f"{OUTBOXES}{self.sub}/change/"

    def put(self, task="shop.invoice", queue=None):
        """Enqueue a task, with a personal argument; return the number of its entry."""
        self.driver.execute(
            "SELECT pgnotifier.enqueue(%s, queue => %s, kwargs => %s)",
            (task, queue, json.dumps({"email": SECRET, "copies": 2})),
        )
        return self.driver.execute("SELECT max(id) FROM pgnotifier.log").fetchone()[0]

    def fail(self, task="shop.invoice", error="no queue"):
        """Have a task fail for good; return the number of its entry in the log."""
        payload = json.dumps({"task": task, "id": "x", "args": [SECRET], "kwargs": {}})
        n = fail(self.driver, NAME, CHANNEL, payload, error=error)
        number = 10**9 + n
        self.driver.execute("UPDATE pgnotifier.failed SET id = %s WHERE n = %s", (number, n))
        return number

    @property
    def counts(self):
        """How many entries wait, are tried again, and are dead."""
        (one,) = outboxes(self.driver)
        return one.waiting, one.failed, one.dead


@pytest.fixture
def shop(driver):
    """Return an outbox."""
    return Shop(driver)


def listed(page):
    """Return the entries of a page, each with its kind."""
    return re.findall(r'name="_selected_action" value="(\w+:\d+)"', page)


def act(client, shop, action, *chosen, query="", **given):
    """Press a button."""
    data = {"action": action, "_selected_action": chosen, **given}
    return client.post(shop.url + query, data, follow=True)


def confirm(client, shop, page, query=""):
    """Press the button of the page that asks."""
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page)
    data = {}
    for name, value in fields:
        data.setdefault(name, []).append(value)
    return client.post(shop.url + query, data, follow=True).content.decode()


def numbers(page, kind):
    """Return the numbers of the entries in one of the lists of a page."""
    return [
        int(number)
        for given, _, number in (one.partition(":") for one in listed(page))
        if given == kind
    ]


def test_the_list(admin_client, driver, shop):
    """All outboxes are listed with their figures, and other subscriptions aren't."""
    positions.subscribe(driver, "invoice", "orders")
    shop.put()
    shop.fail()
    page = page_of(admin_client, OUTBOXES)
    assert "celery:default" in page
    assert NAME in page
    assert '<td class="field-waiting">1</td>' in page
    assert '<td class="field-dead">1</td>' in page
    assert "nobody" in page
    assert "orders" not in page
    assert "Add outbox" not in page
    assert "delete_selected" not in page


def test_one_outbox(admin_client, shop):
    """Its page has what failed with the reasons, and what waits, without arguments."""
    failed, waiting, low = shop.fail(error=BAD), shop.put(), shop.put(BAD, "low")
    page = page_of(admin_client, shop.url)
    assert listed(page) == [f"failed:{failed}", f"waiting:{waiting}", f"waiting:{low}"]
    for secret in (SECRET, BAD):
        assert secret not in page
    assert "&lt;script&gt;" in page
    assert "Nobody relays it" in page
    assert listed(page_of(admin_client, shop.url, queue="low")) == [f"waiting:{low}"]
    found = listed(page_of(admin_client, shop.url, task="shop.invoice"))
    assert found == [f"failed:{failed}", f"waiting:{waiting}"]
    assert admin_client.get(f"{OUTBOXES}999999/change/").status_code == 404


def test_a_task_that_others_mention(admin_client, shop, monkeypatch):
    """A page says so if not all entries were searched for a task."""
    monkeypatch.setattr(outbox_choice, "SHOWN", 2)
    monkeypatch.setattr(outbox_queries, "SEARCHED", 3)
    for _ in range(3):
        shop.driver.execute("SELECT pgnotifier.enqueue('other', args => '[\"shop.invoice\"]')")
    shop.put()
    page = page_of(admin_client, shop.url, task="shop.invoice")
    assert (listed(page), "not all entries were searched" in page) == ([], True)
    assert "not all entries were searched" not in page_of(admin_client, shop.url, task="other")


def test_one_entry(admin_client, shop, settings):
    """An entry's arguments are shown as far as `OUTBOX_REDACT` allows; at first, not at all."""
    number = shop.put()
    url = f"{OUTBOXES}{shop.sub}/entry/{number}/"
    page = page_of(admin_client, url)
    assert (SECRET in page, "email" in page) == (False, True)
    settings.PGNOTIFIER = {"OUTBOX_REDACT": ["email"]}
    page = page_of(admin_client, url)
    assert (SECRET in page, "&quot;copies&quot;: 2" in page) == (False, True)
    settings.PGNOTIFIER = {"OUTBOX_REDACT": f"{__name__}.redact"}
    assert "hidden by the project" in page_of(admin_client, url)
    settings.PGNOTIFIER = {"OUTBOX_REDACT": []}
    assert SECRET in page_of(admin_client, url)
    settings.PGNOTIFIER = {"OUTBOX_REDACT": "no.such.function"}
    assert SECRET not in page_of(admin_client, url)
    assert "pgnotifier.W005" in [problem.id for problem in run_checks()]
    assert admin_client.get(f"{OUTBOXES}{shop.sub}/entry/1{number}/").status_code == 404
    failed = shop.fail(error=f"no {BAD}")
    page = page_of(admin_client, f"{OUTBOXES}{shop.sub}/entry/{failed}/")
    assert (SECRET in page, "no &lt;script" in page) == (False, True)


def test_dead_letters_of_tasks(admin_client, driver, shop, settings):
    """The page of a task's dead letter hides arguments in the same way."""
    shop.fail()
    (n,) = driver.execute("SELECT n FROM pgnotifier.failed").fetchone()
    assert SECRET not in page_of(admin_client, f"{LETTERS}{n}/change/")
    settings.PGNOTIFIER = {"OUTBOX_REDACT": []}
    assert SECRET in page_of(admin_client, f"{LETTERS}{n}/change/")
    driver.execute("UPDATE pgnotifier.failed SET payload = repeat('x', 60000)")
    assert "too long to be shown" in page_of(admin_client, f"{LETTERS}{n}/change/")


def test_sending_again(admin_client, shop):
    """What has failed is tried again; what waits isn't touched."""
    one, two, waiting = shop.fail(), shop.fail(), shop.put()
    page = act(admin_client, shop, "retry", f"failed:{one}", f"waiting:{waiting}", "failed:x", "7")
    assert "1 are going to be sent again." in page.content.decode()
    assert shop.counts == (1, 1, 1)
    assert LogEntry.objects.get().change_message == "1 sent again."
    act(admin_client, shop, "retry", f"failed:{two}")
    assert shop.counts == (1, 2, 0)
    assert act(admin_client, shop, "other").status_code == 403


def test_dropping(admin_client, shop):
    """Entries are dropped after a question, whether they have failed or wait."""
    one, two, waiting, other = shop.fail(), shop.fail(), shop.put(), shop.put()
    chosen = (f"failed:{one}", f"waiting:{waiting}")
    page = act(admin_client, shop, "drop", *chosen).content.decode()
    assert "Drop these messages?" in page
    assert all(f'value="{text}"' in page for text in chosen)
    assert shop.counts == (2, 0, 2)
    page = act(admin_client, shop, "drop", *chosen, confirmed="yes").content.decode()
    assert "2 dropped." in page
    assert listed(page) == [f"failed:{two}", f"waiting:{other}"]
    assert LogEntry.objects.get().change_message == "2 dropped."
    assert "0 dropped." in act(admin_client, shop, "drop", *chosen).content.decode()


def test_filters(admin_client, shop):
    """Entries can be chosen by queue, by task and by state, and those without a queue."""
    failed, retried = shop.fail(), shop.fail("shop.ship")
    shop.driver.execute("UPDATE pgnotifier.failed SET dead = false WHERE id = %s", (retried,))
    routed, low = shop.put(), shop.put(queue="low")
    found = {
        (): [failed, retried, routed, low],
        ("state", "waiting"): [routed, low],
        ("state", "failed"): [retried],
        ("state", "dead"): [failed],
        ("state", "other"): [failed, retried, routed, low],
        ("routed", "1"): [failed, retried, routed],
        ("queue", "low"): [low],
        ("task", "shop.ship"): [retried],
    }
    for given, expected in found.items():
        page = page_of(admin_client, shop.url, **dict([given] if given else []))
        assert [int(one.partition(":")[2]) for one in listed(page)] == expected
    page = page_of(admin_client, shop.url)
    assert "low: 1 waiting" in page
    assert "as routed: 1 waiting" in page
    assert "1 being retried; 1 dead</li>" in page
    shop.driver.execute("SELECT pgnotifier.note_reader(%s, '{7}')", ([shop.sub],))
    shop.driver.execute("SELECT pgnotifier.note_keys(%s, '{low}', '{2.5}')", (shop.sub,))
    assert "0 dead; 2.5 sent per second</li>" in page_of(admin_client, shop.url)


def test_pages(admin_client, shop, monkeypatch):
    """Each of the two lists has pages, which keep the filter."""
    monkeypatch.setattr(outbox_choice, "SHOWN", 2)
    failed = [shop.fail() for _ in range(5)]
    waiting = [shop.put() for _ in range(4)]
    query, seen = "", []
    while query is not None:
        page = page_of(admin_client, f"{shop.url}?{query or 'task=shop.invoice'}")
        assert numbers(page, "waiting") == waiting[:2]
        seen += numbers(page, "failed")
        links = re.findall(r'<a href="\?([^"]*)">Next</a>', page)
        links = [html.unescape(one) for one in links if "waiting_page" not in one]
        query = links[0] if links else None
        assert query is None or "task=shop.invoice" in query
    assert seen == failed
    assert ">Previous</a>" in page
    page = page_of(admin_client, shop.url, waiting_page="2")
    assert (numbers(page, "failed"), numbers(page, "waiting")) == (failed[:2], waiting[2:])
    for odd in ("x", "-1", "0", "99999999999999999999", "9" * 5000):
        assert admin_client.get(shop.url, {"failed_page": odd}).status_code == 200


def test_numbers_that_are_none(admin_client, shop):
    """What no entry can have as its number chooses nothing."""
    failed = shop.fail()
    for odd in ("x", "-1", "9" * 30, "9" * 5000):
        assert act(admin_client, shop, "retry", f"failed:{odd}").status_code == 200
        assert act(admin_client, shop, "drop", select_across="1", last=odd).status_code == 200
    assert numbers(page_of(admin_client, shop.url), "failed") == [failed]


def test_a_whole_page(admin_client, shop, monkeypatch):
    """One box selects all entries of a page, and none of the next one."""
    monkeypatch.setattr(outbox_choice, "SHOWN", 2)
    failed = [shop.fail() for _ in range(3)]
    waiting = [shop.put() for _ in range(3)]
    boxes = re.findall(r'name="whole_page" value="([\w:,]+)"', page_of(admin_client, shop.url))
    assert boxes == [f"failed:{failed[0]},{failed[1]}", f"waiting:{waiting[0]},{waiting[1]}"]
    act(admin_client, shop, "retry", whole_page=boxes)
    assert shop.counts == (3, 2, 1)
    page = act(admin_client, shop, "drop", f"failed:{failed[0]}", whole_page=boxes).content.decode()
    assert "2 have failed, and 2 wait" in page
    assert "4 dropped." in confirm(admin_client, shop, page)
    assert shop.counts == (1, 0, 1)


def test_all_that_match(admin_client, shop):
    """What a filter finds is sent again or dropped as a whole, after a question with the count."""
    bad = [shop.fail("shop.bad") for _ in range(25)]
    shop.fail()
    for _ in range(3):
        shop.put("shop.bad", "low")
    shop.put()
    query, every = "?task=shop.bad", {"select_across": "1"}
    page = act(admin_client, shop, "retry", query=query, **every).content.decode()
    assert "Send these messages again?" in page
    assert "25 have failed, and 0 wait" in page
    assert shop.counts == (4, 0, 26)
    assert "25 are going to be sent again." in confirm(admin_client, shop, page, query)
    assert shop.counts == (4, 25, 1)
    page = act(admin_client, shop, "drop", query=f"{query}&state=failed", **every).content.decode()
    assert "25 have failed, and 0 wait" in page
    page = act(admin_client, shop, "drop", query=query, **every).content.decode()
    assert "25 have failed, and 3 wait" in page
    late = shop.fail("shop.bad")
    assert "28 dropped." in confirm(admin_client, shop, page, query)
    assert shop.counts == (1, 0, 2)
    left = numbers(page_of(admin_client, shop.url), "failed")
    assert (late in left, {*bad} & {*left}) == (True, set())


def test_all_without_a_filter(admin_client, shop):
    """As with the command, all that has failed can be dropped, but not all that waits."""
    shop.fail()
    shop.put()
    page = act(admin_client, shop, "drop", select_across="1").content.decode()
    assert "1 have failed, and 0 wait" in page
    confirm(admin_client, shop, page)
    assert shop.counts == (1, 0, 0)
    page = act(admin_client, shop, "keep", select_across="1").content.decode()
    assert "0 kept as dead letters." in page
    page = act(admin_client, shop, "drop", query="?state=waiting", select_across="1")
    confirm(admin_client, shop, page.content.decode(), "?state=waiting")
    assert shop.counts == (0, 0, 0)


def test_more_than_an_action_takes(admin_client, shop, monkeypatch):
    """An action takes so many at a time, and says that it has to be repeated."""
    for module in (outbox_choice, outbox_admin):
        monkeypatch.setattr(module, "COUNTED", 2)
    for _ in range(3):
        shop.fail()
    page = act(admin_client, shop, "drop", select_across="1").content.decode()
    assert "2, the first of them" in page
    assert "2 dropped; there may be more: repeat it." in confirm(admin_client, shop, page)
    assert shop.counts == (0, 0, 1)


def test_keeping(admin_client, shop):
    """What waits becomes dead letters, which can be sent later; what has failed isn't touched."""
    failed, waiting, other = shop.fail(), shop.put(), shop.put()
    chosen = (f"failed:{failed}", f"waiting:{waiting}")
    page = act(admin_client, shop, "keep", *chosen).content.decode()
    assert "Keep these messages as dead letters" in page
    assert "0 have failed, and 1 wait" in page
    assert "1 kept as dead letters." in confirm(admin_client, shop, page)
    assert shop.counts == (1, 0, 2)
    page = page_of(admin_client, shop.url)
    assert numbers(page, "waiting") == [other]
    assert waiting in numbers(page, "failed")
    act(admin_client, shop, "retry", f"failed:{waiting}")
    assert shop.counts == (1, 1, 1)


def test_buttons_need_a_token(shop):
    """Without Django's token, nothing is done."""
    User.objects.create_superuser("boss", password="p")
    client = Client(enforce_csrf_checks=True)
    client.login(username="boss", password="p")
    failed = shop.fail()
    for given in ({"_selected_action": f"failed:{failed}"}, {"select_across": "1"}):
        data = {"action": "drop", "confirmed": "yes", **given}
        assert client.post(shop.url, data).status_code == 403
    assert shop.counts == (0, 0, 1)


def test_dead_letters_by_queue(admin_client, shop, driver):
    """Dead letters of outboxes can be chosen by queue, whatever their priority."""
    found = {}
    for key in (None, "\x1flow\x1f0", "\x1flow\x1f7", "orders\x1feu\x1f0", "images"):
        found[key] = fail(driver, NAME, CHANNEL, "{}", key=key)
    fail(driver, "invoice", "orders", "{}", key="images")

    def letters(**given):
        page = page_of(admin_client, LETTERS, **given)
        return {int(n) for n in re.findall(r'name="_selected_action" value="(\d+)"', page)}

    page = page_of(admin_client, LETTERS)
    assert all(f">{queue}</a>" in page for queue in ("as routed", "low", "orders/eu", "images"))
    assert len(letters()) == 6
    assert letters(queue="low") == {found["\x1flow\x1f0"], found["\x1flow\x1f7"]}
    assert letters(queue="orders/eu") == {found["orders\x1feu\x1f0"]}
    assert letters(queue="") == {found[None]}
    assert letters(queue="images") == {found["images"]}
    assert letters(queue="other") == set()


def _log_in(client, *codenames):
    """Log in as a new member of the staff with some permissions."""
    User.objects.filter(username="staff").delete()
    user_with(client, *codenames)


def test_permissions(client, shop):
    """Viewing, sending again and dropping need the permissions to view, change and delete."""
    failed = f"failed:{shop.fail()}"
    _log_in(client)
    assert client.get(shop.url).status_code == 403
    for codename, retries, drops in [
        ("view_outbox", False, False),
        ("change_outbox", True, False),
    ]:
        _log_in(client, codename)
        page = page_of(client, shop.url)
        shown = ['value="retry"' in page, 'value="drop"' in page, 'value="keep"' in page]
        assert shown == [retries, drops, drops]
        for chosen in ({"_selected_action": failed}, {"select_across": "1"}):
            for action, is_allowed in (("retry", retries), ("drop", drops), ("keep", drops)):
                data = {"action": action, **chosen}
                assert (client.post(shop.url, data).status_code == 403) is not is_allowed
        assert client.post(f"{OUTBOXES}{shop.sub}/delete/").status_code == 403
    _log_in(client, "view_outbox", "delete_outbox")
    assert act(client, shop, "drop", failed, confirmed="yes").status_code == 200
    assert shop.counts == (0, 0, 0)


def test_without_rights(admin_client, shop):
    """A role that may not read the log gets a page that says so."""
    with as_role("stranger_to_outboxes"):
        page = page_of(admin_client, OUTBOXES)
    assert "The durable log cannot be used" in page


def test_listing_relays(transactional_db):
    """`manage.py pgnotifier --list` shows the relay of an outbox, with its `max_age`."""
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    notifier, out, as_json = get_notifier("default"), StringIO(), StringIO()
    CeleryOutbox(app).relay_to(notifier, max_age=timedelta(minutes=5))
    try:
        call_command("pgnotifier", "--list", stdout=out)
        call_command("pgnotifier", "--list", "--json", "--channel", CHANNEL, stdout=as_json)
    finally:
        notifier.unsubscribe(NAME, CHANNEL)
    (line,) = [one for one in out.getvalue().splitlines() if CHANNEL in one]
    assert "as enqueued" in line
    assert "max_age=0:05:00" in line
    (row,) = json.loads(as_json.getvalue())
    assert [*row["durable"]] == [NAME]
