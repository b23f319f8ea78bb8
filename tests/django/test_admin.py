"""The admin's pages about listeners."""

import subprocess
import sys
from datetime import timedelta

import pytest
from django.utils import timezone

from pgnotifier.contrib.django.models import Listener
from pgnotifier.contrib.django.notifiers import get_notifier
from pgnotifier.contrib.django.watching import HOST, Watch

GAP = {
    "since": "2026-01-01T00:00:00+00:00",
    "until": "2026-01-01T00:00:05+00:00",
    "channels": ["orders"],
    "reason": "lost <the> connection",
}


@pytest.fixture
def listener(db):
    """Return the row that a listener has written."""
    notifier = get_notifier("default")
    watch = Watch({"default": notifier})
    watch._write(ended=False)
    row = Listener.objects.get()
    row.gaps = [GAP]
    row.status["dispatchers"] = [
        {"name": name, "delivered": 1, "waiting": 0, "dropped": 0, "retrying": False}
        for name in ("SignalDispatcher", "HereDispatcher", "Mine")
    ]
    row.state = "listening"
    row.save()
    return row


def test_the_list(admin_client, listener):
    """The list shows the name and the state of a listener, and has no button to add one."""
    page = admin_client.get("/admin/pgnotifier/listener/").content.decode()
    assert listener.name in page
    assert "listening" in page
    assert "Add listener" not in page


def test_a_listener(admin_client, listener):
    """A listener's page shows its receivers, dispatchers and gaps, and refuses changes."""
    url = f"/admin/pgnotifier/listener/{listener.pk.replace(':', '_3A')}/change/"
    page = admin_client.get(url).content.decode()
    for text in (
        "shop.notifications.take_order",
        "lost &lt;the&gt; connection",
        "<td>receivers</td>",
        "<td>inline</td>",
        "<td>Mine</td>",
    ):
        assert text in page
    assert 'name="_save"' not in page
    assert admin_client.post(url, {"name": "other"}).status_code == 403
    assert admin_client.get("/admin/pgnotifier/listener/add/").status_code == 403


def test_times_and_names(admin_client, listener, settings):
    """Times are in the current time zone, to the second; names are as given, one per line."""
    settings.TIME_ZONE = "Asia/Tokyo"
    listener.gaps = [GAP | {"channels": ["a, b", " two  spaces"], "until": "unknown"}]
    listener.save()
    url = f"/admin/pgnotifier/listener/{listener.pk.replace(':', '_3A')}/change/"
    page = admin_client.get(url).content.decode()
    line = '<div style="white-space: pre-wrap">{}</div>'
    for text in (
        '<time datetime="2026-01-01T00:00:00+00:00">Jan. 1, 2026, 09:00:00</time>',
        "<td>unknown</td>",
        f"<td>{line.format('a, b')}{line.format(' two  spaces')}</td>",
        f"<td>{line.format('work')}{line.format('(&#x27;work&#x27;, &#x27;async&#x27;)')}</td>",
    ):
        assert text in page


@pytest.mark.parametrize("state", ["starting", "listening", "disconnected", "standby"])
def test_why(admin_client, listener, state):
    """The list shows the reason beside each state, until the listener has stopped."""
    listener.state = listener.status["state"] = state
    listener.status["why"] = "there is <something>"
    listener.save()
    url = "/admin/pgnotifier/listener/"
    assert f"{state}: there is &lt;something&gt;" in admin_client.get(url).content.decode()
    listener.state = "stopped"
    listener.save()
    assert "something" not in admin_client.get(url).content.decode()


def test_one_that_is_silent(admin_client, listener):
    """A listener that hasn't reported for a minute is shown as silent, unless it has stopped."""
    listener.seen_at = timezone.now() - timedelta(minutes=1)
    listener.save()
    assert (
        "silent (was listening)" in admin_client.get("/admin/pgnotifier/listener/").content.decode()
    )
    listener.state = "stopped"
    assert not listener.is_silent


def test_the_rest_of_its_life(listener):
    """A listener replaces its own row, and deletes the rows of those that are long gone."""
    old = timezone.now() - timedelta(days=2)
    Listener.objects.create(name="old", started_at=old, seen_at=old)
    watch = Watch({"default": get_notifier("default")})
    for ended in (False, True):
        watch._write(ended=ended)
    (row,) = Listener.objects.all()
    assert row.name == listener.name
    assert row.state == "stopped"


def test_a_process_that_has_died(listener):
    """A listener deletes the rows of dead processes of its host, but not of other hosts."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait(30)
    now = timezone.now()
    for name in (f"{HOST}:{done.pid}:default", f"elsewhere:{done.pid}:default"):
        Listener.objects.create(name=name, started_at=now, seen_at=now)
    Watch({"default": get_notifier("default")})._write(ended=False)
    names = set(Listener.objects.values_list("name", flat=True))
    assert names == {listener.name, f"elsewhere:{done.pid}:default"}


def test_who_may_look(client, listener):
    """A user who isn't logged in is redirected to the login page."""
    assert client.get("/admin/pgnotifier/listener/").status_code == 302
