"""What the relay of an outbox is given: by arguments, by settings, or by an earlier call."""

from datetime import timedelta

import pytest
from celery import Celery

from pgnotifier import ArgumentTypeError, ConfigurationError
from pgnotifier.contrib.celery import CeleryNotifier, CeleryOutbox
from pgnotifier.contrib.celery.relay import find_relayed


@pytest.fixture
def relayed():
    """Return an app and a notifier that relays no outbox yet."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.pgnotifier_dsn = "host=nowhere.invalid"
    return app, CeleryNotifier(app, autorun=False)


def show_relay(app, notifier):
    """Return what SQL may ask for, and how long entries may wait."""
    found = find_relayed(CeleryOutbox(app), notifier)
    assert found.exists
    return found.allow, found.max_age


def test_what_sql_may_ask_for(relayed, monkeypatch):
    """The app's setting says which tasks SQL may ask for; an argument takes precedence."""
    app, notifier = relayed
    app.conf.pgnotifier_outbox_allow = ["shop.*"]
    notifier.outbox  # noqa: B018 - which makes it relay
    assert show_relay(app, notifier) == (("shop.*",), None)
    CeleryOutbox(app).relay_to(notifier, allow=["billing.*"])
    assert show_relay(app, notifier) == (("billing.*",), None)
    other = CeleryNotifier(app, autorun=False)
    monkeypatch.setenv("PGNOTIFIER_OUTBOX_ALLOW", "a.*, b")
    CeleryOutbox(app).relay_to(other)
    assert show_relay(app, other) == (("a.*", "b"), None)


def test_relaying_again(relayed):
    """A second `relay_to` for a notifier keeps what it isn't given."""
    app, notifier = relayed
    outbox, limit = CeleryOutbox(app), timedelta(minutes=5)
    assert not find_relayed(outbox, notifier).exists
    outbox.relay_to(notifier, max_age=limit)
    outbox.relay_to(notifier, allow=["shop.*"])
    assert show_relay(app, notifier) == (("shop.*",), limit)
    outbox.relay_to(notifier, max_age=limit * 2)
    assert show_relay(app, notifier) == (("shop.*",), limit * 2)
    CeleryOutbox(app, "other").relay_to(notifier)
    assert show_relay(app, notifier) == (("shop.*",), limit * 2)
    notifier.unsubscribe(outbox.subscription, outbox.channel)
    outbox.relay_to(notifier)
    assert show_relay(app, notifier) == (None, None)


@pytest.mark.parametrize("given", ["shop.*", [7], [""], 7])
def test_wrong_lists_of_tasks(given, caplog):
    """A mistake in the setting is logged when the notifier is made, and ends its start."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(pgnotifier_dsn="host=nowhere.invalid", pgnotifier_outbox_allow=given)
    notifier = CeleryNotifier(app, autorun=False)
    assert "pgnotifier_outbox_allow must be a list of names or patterns" in caplog.text
    with pytest.raises(ConfigurationError, match="pgnotifier_outbox_allow must be a list"):
        notifier.start()
    with pytest.raises(ArgumentTypeError, match="pgnotifier_outbox_allow must be a list"):
        notifier.outbox  # noqa: B018 - which makes it relay
