"""The admin's pages about dead letters and durable subscriptions."""

import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from pgnotifier import durable
from pgnotifier._log import positions
from pgnotifier.contrib.django import Channel
from pgnotifier.contrib.django.durable import log_admin
from pgnotifier.contrib.django.durable.operations import open_driver

LETTERS = "/admin/pgnotifier_durable/deadletter/"
SUBSCRIPTIONS = "/admin/pgnotifier_durable/durablesubscription/"
BAD = "<script>alert(1)</script>"


def fail(
    driver, name="invoice", channel="orders", payload="{}", *, key=None, error="no", dead=True
):
    """Keep an entry that has failed; return its number."""
    sub = positions.subscribe(driver, name, channel)
    (n,) = driver.execute(
        "SELECT pgnotifier.fail(%s, 700007, '2026-01-01Z', %s, %s, %s, %s, %s, %s, %s)",
        (
            sub,
            channel,
            None if key is None else key.encode(),
            payload.encode() if isinstance(payload, str) else payload,
            error,
            f"Traceback\n  {error}",
            60.0,
            dead,
        ),
    ).fetchone()
    return n


def rows(query, alias="default", args=None):
    """Return the rows of a query."""
    with connections[alias].cursor() as cursor:
        cursor.execute(query, args)
        return cursor.fetchall()


@pytest.fixture
def driver(db):
    """Return the driver's connection to the default database, in the test's transaction."""
    return open_driver(connection)


def page_of(client, url, **given):
    """Return the text of a page."""
    response = client.get(url, given)
    assert response.status_code == 200, response.headers
    return response.content.decode()


def listed(page):
    """Return the numbers of the rows of a list."""
    return [int(n) for n in re.findall(r'name="_selected_action" value="(\d+)"', page)]


def act(client, url, action, numbers, query="", **given):
    """Choose an action for some rows of a list."""
    data = {"action": action, "_selected_action": numbers, "index": 0, **given}
    return client.post(url + query, data)


@contextmanager
def as_role(name, *grants):
    """Have the default connection continue as a role that has few rights."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name}")
        cursor.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
        cursor.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
        for grant in grants:
            cursor.execute(grant)
        cursor.execute(f"SET ROLE {name}")
        try:
            yield
        finally:
            cursor.execute("RESET ROLE")


@pytest.fixture
def without_log(transactional_db):
    """Have the log dropped; afterwards it is there again."""
    call_command("migrate", "pgnotifier_durable", "zero", verbosity=0)
    yield
    call_command("migrate", "pgnotifier_durable", verbosity=0)


def user_with(client, *codenames):
    """Log in a member of the staff with some permissions."""
    user = User.objects.create_user("staff", password="p", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client.force_login(user)
    return user


# --- dead letters ---


def test_the_list_of_dead_letters(admin_client, driver):
    """Dead letters are listed, the newest first; others only if they are chosen."""
    one, two = fail(driver), fail(driver, "mail", "users", error=f"{BAD}\nsecond line")
    retried = fail(driver, dead=False)
    page = page_of(admin_client, LETTERS)
    assert listed(page) == [two, one]
    assert BAD not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; second line" in page
    assert listed(page_of(admin_client, LETTERS, state="retried")) == [retried]
    assert listed(page_of(admin_client, LETTERS, state="all")) == [retried, two, one]
    assert "Add dead letter" not in page


def test_choosing_dead_letters(admin_client, driver):
    """The list can be filtered by subscription and channel, and searched."""
    one = fail(driver, key="k1", error="ValueError: 00% off")
    two = fail(driver, "mail", "users", error="KeyError: 'a'")
    for given, expected in [
        ({"subscription": "invoice"}, [one]),
        ({"subscription": "it's not there"}, []),
        ({"channel": "users"}, [two]),
        ({"channel": "users", "subscription": "invoice"}, []),
        ({"q": "k1"}, [one]),
        ({"q": "99999999"}, []),
        ({"q": "keyerror"}, [two]),
        ({"q": "00%"}, [one]),
        ({"q": "700007"}, [two, one]),
        ({"q": str(two)}, [two]),
        ({"q": "9" * 30}, []),
    ]:
        assert listed(page_of(admin_client, LETTERS, **given)) == expected, given
    page = page_of(admin_client, LETTERS)
    assert "subscription=invoice" in page
    assert "channel=users" in page


def test_a_dead_letter(admin_client, driver):
    """A dead letter's page has its payload, error and traceback, as text."""
    n = fail(driver, payload=f'{{"a": "{BAD}"}}', key=f"k {BAD}", error=f"E {BAD}")
    page = page_of(admin_client, f"{LETTERS}{n}/change/")
    assert BAD not in page
    for text in (
        "k &lt;script",
        "E &lt;script",
        "Traceback\n  E &lt;",
        "{&quot;a&quot;: &quot;&lt;s",
    ):
        assert text in page
    for name in ("_save", "_continue", "_addanother"):
        assert f'name="{name}"' not in page
    assert admin_client.post(f"{LETTERS}{n}/change/", {"error": "x"}).status_code == 403
    assert admin_client.get(f"{LETTERS}add/").status_code == 403


def test_large_texts_are_cut(admin_client, driver):
    """Of a payload of 10 MB only the beginning is read and shown, with its size."""
    n = fail(driver, payload="ä" * 5_000_000 + "the end", error="e" * 1_000_000)
    with CaptureQueriesContext(connection) as queries:
        page = page_of(admin_client, f"{LETTERS}{n}/change/")
    assert len(page) < 250_000
    assert "ä" * 50_000 in page
    assert "the end" not in page
    assert "Only the beginning is shown" in page
    assert "9.5\xa0MB" in page
    # Only functions get the whole of it, in the server.
    column = re.compile(r'(?<!\()"pgnotifier"."failed"."payload"')
    assert not any(column.search(query["sql"]) for query in queries)
    assert len(page_of(admin_client, LETTERS)) < 50_000


def test_a_list_takes_few_queries(admin_client, driver):
    """The number of queries doesn't depend on the number of rows."""
    counts = []
    for many in (1, 60):
        for number in range(many):
            fail(driver, f"sub {number}")
        for url in (LETTERS, SUBSCRIPTIONS):
            page_of(admin_client, url)  # content types are cached
            with CaptureQueriesContext(connection) as queries:
                page_of(admin_client, url)
            counts.append(len(queries))
    assert counts[:2] == counts[2:]
    assert max(counts) < 20


def test_counting_is_bounded(admin_client, driver):
    """Of many rows, only so many are counted."""
    sub = positions.subscribe(driver, "invoice", "orders")
    driver.execute(
        "INSERT INTO pgnotifier.failed (sub, id, at, channel, payload, dead)"
        " SELECT %s, n, now(), 'orders', '1', true FROM generate_series(1, 12000) AS n",
        (sub,),
    )
    with CaptureQueriesContext(connection) as queries:
        page = page_of(admin_client, LETTERS)
    assert "10000 dead letters" in page
    counting = [query["sql"] for query in queries if "COUNT(*)" in query["sql"]]
    assert len(counting) == 1
    assert "LIMIT 10000" in counting[0]
    assert len(listed(page_of(admin_client, LETTERS, p=100))) == 100
    assert len(listed(page_of(admin_client, LETTERS, all=""))) == 100
    # An action on all of them takes as many at a time.
    response = act(admin_client, LETTERS, "retry", [1], select_across=1)
    assert response.status_code == 302
    assert "10000 are going to be retried now; there may be more" in page_of(admin_client, LETTERS)
    assert rows("SELECT count(*) FROM pgnotifier.failed WHERE dead") == [(2000,)]
    assert LogEntry.objects.count() == 10_000


def test_retrying(admin_client, driver):
    """Retrying makes letters alive again, and is in the admin's log."""
    one, two, three = (fail(driver, key=str(number)) for number in range(3))
    response = act(admin_client, LETTERS, "retry", [one, two])
    assert response.status_code == 302
    assert "2 are going to be retried now." in page_of(admin_client, LETTERS)
    found = rows("SELECT n, dead, attempts FROM pgnotifier.failed ORDER BY n")
    assert found == [(one, False, 0), (two, False, 0), (three, True, 1)]
    notes = LogEntry.objects.order_by("pk").values_list("object_id", "change_message")
    assert list(notes) == [(str(one), "Retried."), (str(two), "Retried.")]
    assert "Retried." in page_of(admin_client, f"{LETTERS}{one}/history/")
    admin_client.post(f"{LETTERS}{three}/retry/")
    assert rows("SELECT count(*) FROM pgnotifier.failed WHERE dead") == [(0,)]
    assert admin_client.get(f"{LETTERS}{three}/retry/").status_code == 405


def test_dropping(admin_client, driver):
    """Dropping asks first, deletes what was chosen, and is in the admin's log."""
    one, two = fail(driver, error=BAD), fail(driver)
    page = act(admin_client, LETTERS, "drop", [one]).content.decode()
    assert "Drop these dead letters?" in page
    assert f"{one}: entry 700007 on orders" in page
    assert "database default" in page
    assert len(rows("SELECT n FROM pgnotifier.failed")) == 2
    act(admin_client, LETTERS, "drop", [one], confirmed="yes", last=one)
    assert rows("SELECT n FROM pgnotifier.failed") == [(two,)]
    (note,) = LogEntry.objects.all()
    assert (note.object_id, note.change_message, note.is_deletion()) == (str(one), "Dropped.", True)


def test_dropping_all_leaves_later_ones(admin_client, driver):
    """What has failed since the question was asked isn't dropped."""
    before = [fail(driver) for _ in range(2)]
    page = act(admin_client, LETTERS, "drop", before[:1], select_across=1).content.decode()
    (last,) = re.findall(r'name="last" value="(\d+)"', page)
    assert int(last) == before[-1]
    later = fail(driver)
    act(admin_client, LETTERS, "drop", before[:1], select_across=1, confirmed="yes", last=last)
    assert rows("SELECT n FROM pgnotifier.failed") == [(later,)]


def test_dropping_all_of_a_filtered_list(admin_client, driver):
    """An action on all rows is about those that the list shows."""
    fail(driver)
    other = fail(driver, "mail", "users")
    given = {"select_across": 1, "confirmed": "yes", "last": other}
    act(admin_client, LETTERS, "drop", [other], "?channel=orders", **given)
    assert rows("SELECT n FROM pgnotifier.failed") == [(other,)]


def test_deleting_one(admin_client, driver):
    """A letter's own page can delete it."""
    n = fail(driver)
    page = page_of(admin_client, f"{LETTERS}{n}/delete/")
    assert f"{n}: entry 700007 on orders" in page
    admin_client.post(f"{LETTERS}{n}/delete/", {"post": "yes"})
    assert rows("SELECT n FROM pgnotifier.failed") == []
    assert [one.change_message for one in LogEntry.objects.all()] == ["Dropped."]


@pytest.mark.parametrize("number", ["999999", "x", "9" * 30, "other:1", "default:1"])
def test_a_dead_letter_that_is_not_there(admin_client, driver, number):
    """The address of a letter that doesn't exist leads back, or to a message."""
    for page in ("change", "delete", "history"):
        response = admin_client.get(f"{LETTERS}{number}/{page}/", follow=True)
        assert response.status_code == 200
    response = admin_client.post(f"{LETTERS}{number}/retry/", follow=True)
    assert response.status_code == 200


@pytest.mark.parametrize("name", ["view", "change", "delete"])
def test_permissions_for_dead_letters(client, driver, name):
    """Viewing, retrying and dropping need the permissions to view, to change and to delete."""
    n = fail(driver)
    user_with(client, f"{name}_deadletter", "view_deadletter")
    page = page_of(client, LETTERS)
    may = {"retry": name == "change", "drop": name == "delete"}
    for action, allowed in may.items():
        assert (f'<option value="{action}">' in page) is allowed
    detail = page_of(client, f"{LETTERS}{n}/change/")
    assert ("retry-form" in detail) is may["retry"]
    assert ("/delete/" in detail) is may["drop"]
    assert client.post(f"{LETTERS}{n}/retry/").status_code == (302 if may["retry"] else 403)
    act(client, LETTERS, "drop", [n], "?state=all", confirmed="yes", last=n)
    assert rows("SELECT count(*) FROM pgnotifier.failed") == [(0 if may["drop"] else 1,)]


def test_without_permission(client, driver):
    """Who may not view dead letters gets no page, not even one about the log."""
    n = fail(driver)
    user_with(client, "view_listener")
    for url in (LETTERS, f"{LETTERS}{n}/change/", SUBSCRIPTIONS):
        assert client.get(url).status_code == 403
    assert client.post(f"{LETTERS}{n}/retry/").status_code == 403
    client.logout()
    assert client.get(LETTERS).status_code == 302
    assert client.post(f"{LETTERS}{n}/retry/").status_code == 302


def test_what_utf_8_lacks(admin_client, driver):
    """The bytes of a payload are shown, with replacements if need be."""
    n = fail(driver, payload="\ufffd ☃")
    assert "\ufffd ☃" in page_of(admin_client, f"{LETTERS}{n}/change/")


# --- when there is no log, or no right ---


def test_before_the_log_is_installed(admin_client, without_log):
    """Without the log, pages say how to install it."""
    for url in (LETTERS, SUBSCRIPTIONS, f"{LETTERS}1/change/", f"{SUBSCRIPTIONS}1/change/"):
        page = page_of(admin_client, url)
        assert "has no durable log" in page
        assert "manage.py migrate --database default" in page
    page = act(admin_client, LETTERS, "retry", [1]).content.decode()
    assert "has no durable log" in page


def test_an_old_log(admin_client, driver):
    """With a log that is too old, pages say so."""
    driver.execute("UPDATE pgnotifier.installed SET version = 1")
    assert "has version 1, and this pgnotifier needs" in page_of(admin_client, SUBSCRIPTIONS)


def test_a_role_without_rights(admin_client, db):
    """With a role that may not read the log, pages say so; the rest of the admin works."""
    with as_role("nobody_at_all"):
        for url in (LETTERS, SUBSCRIPTIONS):
            page = page_of(admin_client, url)
            assert "for want of rights: permission denied for schema pgnotifier" in page
        page_of(admin_client, "/admin/")


def test_a_role_that_may_only_read(admin_client, driver):
    """With a role that may read, and not retry, an action says so, and nothing is noted."""
    n = fail(driver)
    grants = (
        "GRANT USAGE ON SCHEMA pgnotifier TO reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA pgnotifier TO reader",
    )
    with as_role("reader", *grants):
        assert listed(page_of(admin_client, LETTERS)) == [n]
        page = act(admin_client, LETTERS, "retry", [n]).content.decode()
        assert "permission denied for function retry" in page
    assert LogEntry.objects.count() == 0
    assert rows("SELECT dead FROM pgnotifier.failed") == [(True,)]


def test_a_listener_s_rights_are_enough(admin_client, driver):
    """The rights of a listener are all that the pages need."""
    n = fail(driver)
    with as_role("worker", durable.grant_script("worker", "listener")):
        assert listed(page_of(admin_client, LETTERS)) == [n]
        page_of(admin_client, f"{LETTERS}{n}/change/")
        act(admin_client, LETTERS, "retry", [n])
        assert "invoice" in page_of(admin_client, SUBSCRIPTIONS)
    assert rows("SELECT dead FROM pgnotifier.failed") == [(False,)]


def test_what_postgresql_refuses(admin_client, driver):
    """If the server refuses a query, the page has the reason."""
    fail(driver)
    page = page_of(admin_client, LETTERS, q="\0")
    assert "Null characters are not allowed" in page
    page = page_of(admin_client, LETTERS, subscription="\0")
    assert "the database answered" in page


def test_settings_of_the_transaction(admin_client, driver):
    """Time limits end with the page, also if the request has a transaction of its own."""
    fail(driver)
    rows("SELECT set_config('statement_timeout', '77s', true)")
    for url in (LETTERS, SUBSCRIPTIONS):
        page_of(admin_client, url)
        assert rows("SHOW statement_timeout") == [("77s",)]
        assert rows("SHOW lock_timeout") == [("0",)]


def test_a_query_that_takes_too_long(admin_client, committed, settings):
    """A query that takes too long is ended, and the page says so."""
    settings.PGNOTIFIER = {**settings.PGNOTIFIER, "ADMIN_TIMEOUT": 0.2}
    with psycopg.connect(committed.info.dsn) as other:
        other.execute("LOCK TABLE pgnotifier.failed IN ACCESS EXCLUSIVE MODE")
        assert "timeout" in page_of(admin_client, LETTERS)
    page_of(admin_client, LETTERS)


@pytest.mark.django_db(databases=["default", "second"], transaction=True)
def test_a_server_that_is_down(admin_client, monkeypatch, durable_channel):
    """If a database can't be reached, its page says so."""
    connections["second"].close()
    monkeypatch.setitem(connections["second"].settings_dict, "PORT", "1")
    page = page_of(admin_client, LETTERS, database="second")
    assert "Database second: the database answered: " in page, page


# --- another database ---


@pytest.fixture
def durable_channel():
    """Have a durable channel in the second database."""
    channel = Channel("second parcels", using="second", durable=True)
    yield channel
    del Channel.known[channel.name]


@pytest.fixture
def second(transactional_db, durable_channel):
    """Yield the driver's connection to a second database, which has a log and a durable channel."""
    driver = open_driver(connections["second"])
    durable.install(driver)
    yield driver
    durable.uninstall(driver)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE pgnotifier.subscription CASCADE")


@pytest.mark.django_db(databases=["default", "second"], transaction=True)
def test_two_databases(admin_client, second):
    """With two databases, one is chosen; links, actions and notes are about that one."""
    here = fail(open_driver(connection))
    there = [fail(second, "elsewhere") for _ in range(3)][-1]
    page = page_of(admin_client, LETTERS)
    assert listed(page) == [here]
    assert "?database=second" in page
    page = page_of(admin_client, LETTERS, database="second")
    assert listed(page)[0] == there
    assert f"{LETTERS}second_3A{there}/change/" in page
    assert "subscription=elsewhere" in page
    assert "subscription=invoice" not in page
    url = f"{LETTERS}second_3A{there}/"
    assert "elsewhere" in page_of(admin_client, f"{url}change/")
    admin_client.post(f"{url}retry/")
    assert rows("SELECT dead FROM pgnotifier.failed WHERE n = %s", "second", [there]) == [(False,)]
    assert rows("SELECT dead FROM pgnotifier.failed") == [(True,)]
    (note,) = LogEntry.objects.all()
    assert note.object_id == f"second:{there}"
    assert note.get_admin_url().replace("//", "/") in {url, f"{url}change/"}
    assert "Retried." in page_of(admin_client, f"{url}history/")
    given = {"select_across": 1, "confirmed": "yes", "last": there}
    act(admin_client, LETTERS, "drop", [there], "?database=second&state=all", **given)
    assert rows("SELECT count(*) FROM pgnotifier.failed", "second") == [(0,)]
    assert rows("SELECT count(*) FROM pgnotifier.failed") == [(1,)]
    page = page_of(admin_client, SUBSCRIPTIONS, database="second")
    assert "elsewhere" in page
    assert "invoice" not in page


@pytest.mark.django_db(databases=["default", "second"], transaction=True)
def test_a_second_database_without_log(admin_client, second):
    """If one of the databases has no log, its page says so, and leads to the other."""
    durable.uninstall(second)
    page = page_of(admin_client, SUBSCRIPTIONS, database="second")
    assert "Database second" in page
    assert f"{SUBSCRIPTIONS}?database=default" in page
    page_of(admin_client, SUBSCRIPTIONS)


@pytest.mark.parametrize("alias", ["lite", "nothing"])
def test_a_database_that_is_not_postgresql(admin_client, db, settings, alias):
    """If PGNOTIFIER["DATABASE"] isn't a PostgreSQL database, pages say so."""
    settings.PGNOTIFIER = {**settings.PGNOTIFIER, "DATABASE": alias}
    assert log_admin.find_aliases() == []
    for url in (LETTERS, SUBSCRIPTIONS, f"{LETTERS}1/change/"):
        assert "there is no PostgreSQL database" in page_of(admin_client, url)


# --- subscriptions ---


def publish(driver, channel="orders", many=1):
    """Publish some entries."""
    for number in range(many):
        driver.execute("SELECT pgnotifier.publish(%s, %s)", (channel, str(number)))


@pytest.fixture
def committed(transactional_db):
    """Let transactions commit; afterwards the log is empty again."""
    yield open_driver(connection)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE pgnotifier.log, pgnotifier.subscription CASCADE")


def cells(page, name):
    """Return the texts in the columns of a subscription."""
    for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL):
        found = {
            key: re.sub(r"<[^>]*>", "", text).strip()
            for key, text in re.findall(r'<t[dh] class="field-(\w+)[^"]*">(.*?)</t[dh]>', row, re.S)
        }
        if found.get("name") == name:
            return found
    raise LookupError(name)


def test_subscriptions(admin_client, committed):
    """The list shows lag, failures and readers, and what the log holds."""
    positions.subscribe(committed, "invoice", "orders")
    positions.subscribe(committed, f"mail {BAD}", "users")
    publish(committed, many=3)
    fail(committed, dead=True)
    fail(committed, dead=False)
    page = page_of(admin_client, SUBSCRIPTIONS)
    found = cells(page, "invoice")
    assert (found["lag"], found["failed"], found["dead"]) == ("3", "1", "1")
    assert found["reader"] == "nobody"
    assert re.fullmatch(r"\d+ s", found["behind"])
    assert "The log has" in page
    assert BAD not in page
    link = re.search(r'href="([^"]*deadletter/\?[^"]*)">1</a>', page).group(1)
    assert len(listed(page_of(admin_client, link.replace("&amp;", "&")))) == 1
    assert "invoice" not in page_of(admin_client, SUBSCRIPTIONS, q="nothing like it")


def test_what_holds_space_back(admin_client, committed):
    """An open transaction that has published is named by its pid."""
    positions.subscribe(committed, "invoice", "orders")
    with psycopg.connect(committed.info.dsn) as open_one:
        publish(open_one)
        pid = open_one.info.backend_pid
        committed.execute(  # so that the slot is not the current one
            "SELECT setval('pgnotifier.slot', (last_value + 1) % 8) FROM pgnotifier.slot"
        )
        page = page_of(admin_client, SUBSCRIPTIONS)
        assert f"the open transaction of pid {pid}" in page


def test_a_subscription(admin_client, committed):
    """A subscription's page shows all of its figures, and has nothing to edit or delete."""
    sub = positions.subscribe(committed, "invoice", "orders")
    publish(committed)
    page = page_of(admin_client, f"{SUBSCRIPTIONS}{sub}/change/")
    for text in ("invoice", "orders", "nobody", "Entries behind"):
        assert text in page
    assert 'name="_save"' not in page
    assert "/delete/" not in page
    assert admin_client.get(f"{SUBSCRIPTIONS}{sub}/delete/").status_code == 403


@pytest.mark.parametrize(
    ("given", "lag"),
    [
        ({"to": "oldest"}, "3"),
        ({"to": "now"}, "0"),
        ({"to": "time", "time": "2000-01-01T00:00:00"}, "3"),
    ],
    ids=str,
)
def test_seeking(admin_client, committed, given, lag):
    """Subscriptions are moved after the page has asked where to."""
    other = positions.subscribe(committed, "keeps", "orders")
    publish(committed, many=3)
    sub = positions.subscribe(committed, "invoice", "orders", datetime.now(UTC) + timedelta(days=1))
    page = act(admin_client, SUBSCRIPTIONS, "seek", [sub]).content.decode()
    assert "Where to move these durable subscriptions?" in page
    assert 'type="datetime-local"' in page
    response = act(admin_client, SUBSCRIPTIONS, "seek", [sub], confirmed="yes", **given)
    assert response.status_code == 302
    page = page_of(admin_client, SUBSCRIPTIONS)
    assert "1 moved." in page
    assert cells(page, "invoice")["lag"] == lag
    (note,) = LogEntry.objects.all()
    assert note.object_id == str(sub)
    assert note.change_message.startswith("Moved to")
    assert other != sub


@pytest.mark.parametrize("given", [{}, {"to": "time"}, {"to": "time", "time": "x"}, {"to": "id"}])
def test_seeking_to_nowhere(admin_client, committed, given):
    """Without a place, the page asks again."""
    sub = positions.subscribe(committed, "invoice", "orders")
    page = act(admin_client, SUBSCRIPTIONS, "seek", [sub], confirmed="yes", **given)
    assert page.status_code == 200
    assert "errorlist" in page.content.decode()
    assert LogEntry.objects.count() == 0


def test_seeking_while_it_is_read(admin_client, committed, settings):
    """If a reader holds the subscription for long, the page says that it took too long."""
    settings.PGNOTIFIER = {**settings.PGNOTIFIER, "ADMIN_TIMEOUT": 0.2}
    sub = positions.subscribe(committed, "invoice", "orders")
    with psycopg.connect(committed.info.dsn) as reader:
        reader.execute("SELECT FROM pgnotifier.subscription FOR UPDATE")
        page = act(admin_client, SUBSCRIPTIONS, "seek", [sub], confirmed="yes", to="now")
        assert "timeout" in page.content.decode()
    assert LogEntry.objects.count() == 0


def test_forgetting(admin_client, committed):
    """A subscription that nobody needs is forgotten, after the page has asked."""
    sub = positions.subscribe(committed, "invoice", "orders")
    other = positions.subscribe(committed, "mail", "orders")
    page = act(admin_client, SUBSCRIPTIONS, "forget", [sub]).content.decode()
    assert "Forget these durable subscriptions" in page
    act(admin_client, SUBSCRIPTIONS, "forget", [sub], confirmed="yes")
    assert rows("SELECT sub FROM pgnotifier.subscription") == [(other,)]
    assert "1 forgotten." in page_of(admin_client, SUBSCRIPTIONS)


@pytest.mark.parametrize("name", ["view", "change", "delete"])
def test_permissions_for_subscriptions(client, committed, name):
    """Moving needs the permission to change, forgetting that to delete."""
    sub = positions.subscribe(committed, "invoice", "orders")
    user_with(client, f"{name}_durablesubscription", "view_durablesubscription")
    page = page_of(client, SUBSCRIPTIONS)
    assert ('<option value="seek">' in page) is (name == "change")
    assert ('<option value="forget">' in page) is (name == "delete")
    act(client, SUBSCRIPTIONS, "forget", [sub], confirmed="yes")
    assert len(rows("SELECT sub FROM pgnotifier.subscription")) == (0 if name == "delete" else 1)


def test_the_index(admin_client, db):
    """The admin's index leads to both."""
    page = page_of(admin_client, "/admin/")
    assert LETTERS in page
    assert SUBSCRIPTIONS in page
