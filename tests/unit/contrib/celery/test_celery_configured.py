"""CeleryNotifier, shared subscriptions and the discovery of modules."""

import sys

import pytest
from celery import Celery, current_app, shared_task

from pgnotifier import ArgumentTypeError, ConfigurationError
from pgnotifier.contrib.celery import (
    CeleryDispatcher,
    CeleryNotifier,
    notifiers_of,
    shared_subscription,
)


@pytest.fixture
def app():
    """Return an app with all settings."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(
        pgnotifier_dsn="host=h dbname=x password=s3cret",
        pgnotifier_task_prefix="n.",
        pgnotifier_standby="name",
        pgnotifier_buffer_size=5,
        pgnotifier_overflow="drop_oldest",
    )
    return app


def callback(id, channel, payload, pid): ...


def names(app):
    """Return the names of the app's tasks, without those that every app has."""
    return app.tasks.keys() - Celery(set_as_current=False).tasks.keys()


def test_configured_by_the_app(app):
    """A CeleryNotifier takes its settings from the configuration of the app."""
    notifier = CeleryNotifier(app)
    assert notifiers_of(app) == [notifier]
    assert (notifier.app, notifier.standby) == (app, "name")
    settings = notifier._lifecycle.settings
    assert (settings.buffer_size, settings.overflow) == (5, "drop_oldest")
    assert notifier.status().connection == "host=h dbname=x"
    notifier.subscribe("a", "ch", callback)
    assert names(app) == {"n.a"}


def test_a_callable_and_heartbeats(app):
    """The connection parameters may be a callable, and heartbeats can be configured."""
    app.conf.pgnotifier_dsn = lambda: "dbname=z"
    app.conf.pgnotifier_heartbeat = 3
    app.conf.pgnotifier_heartbeat_timeout = 1.5
    notifier = CeleryNotifier(app)
    settings = notifier._lifecycle.settings
    assert (settings.heartbeat, settings.heartbeat_timeout) == (3, 1.5)
    assert "lambda" in notifier.status().connection


def test_arguments_win(app):
    """Arguments of CeleryNotifier override the configuration of the app."""
    found = []
    notifier = CeleryNotifier(
        app, db_conf={"dbname": "y"}, task_prefix="", standby=None, on_gap=found.append
    )
    notifier.subscribe("a", "ch", callback)
    assert names(app) == {"a"}
    assert notifier.standby is None
    assert "dbname=y" in notifier.status().connection


def check_that_it_cannot_start(notifier, says):
    """Check that subscribing works, and that whatever needs a connection says what is wrong."""
    notifier.subscribe("a", "ch", callback)
    assert not notifier.is_running()
    assert notifier.get_channels() == {"ch"}
    for call in (notifier.start, notifier.restart, notifier.check_configured):
        with pytest.raises(ConfigurationError, match=says):
            call()
    assert not notifier.is_running()


def test_without_dsn(caplog):
    """Without a DSN, everything except for connecting works, and the error says what to set."""
    notifier = CeleryNotifier(Celery("shop", set_as_current=False))
    assert not caplog.records
    check_that_it_cannot_start(notifier, "pgnotifier_dsn is missing")
    with pytest.raises(ConfigurationError, match="pgnotifier_dsn is missing"):
        notifier.notify("ch")


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("dns", "x", "did you mean 'pgnotifier_dsn'"),
        ("dsn", "host=h pasword=s3cret", "did you mean 'password'"),
        ("dsn", "s3cret", "can't be parsed"),
        ("dsn", 5, "must be a connection string.*, not int"),
        ("buffer_size", 0, "buffer_size must be at least 1"),
        ("buffer_size", "5", "must be an integer, not '5'"),
        ("overflow", "explode", "overflow must be 'block'"),
        ("heartbeat", -1, "heartbeat must be above 0"),
        ("task_prefix", 7, "must be a str, not 7"),
    ],
)
def test_a_setting_that_cannot_be(app, caplog, setting, value, says):
    """An invalid setting is a warning at once, and an error when the notifier is to start."""
    app.conf[f"pgnotifier_{setting}"] = value
    notifier = CeleryNotifier(app)
    (warned,) = caplog.messages
    assert warned.startswith("this notifier can't be started: ")
    assert "s3cret" not in warned
    check_that_it_cannot_start(notifier, says)


@pytest.mark.parametrize(
    ("name", "text"), [("DSN", "s3cret"), ("BUFFER_SIZE", "many"), ("DSN", "")]
)
def test_a_variable_that_cannot_be(app, monkeypatch, name, text):
    """An invalid environment variable is an error at the start; an empty one counts as missing."""
    monkeypatch.setenv(f"PGNOTIFIER_{name}", text)
    check_that_it_cannot_start(CeleryNotifier(app), r"parsed|SIZE must be an integer$|missing")


@pytest.mark.parametrize(
    "arguments",
    [{"db_conf": "s3cret"}, {"buffer_size": 0}, {"heartbeat": "x"}, {"task_prefix": 7}],
)
def test_an_argument_that_cannot_be(app, arguments):
    """An invalid argument is refused at once."""
    with pytest.raises((ConfigurationError, ArgumentTypeError)):
        CeleryNotifier(app, **arguments)


def test_no_app():
    """A CeleryNotifier refuses anything that isn't a Celery app."""
    with pytest.raises(ArgumentTypeError, match="app must be a Celery app"):
        CeleryNotifier("shop")


def test_two_apps_do_not_mix(app):
    """Each notifier registers its tasks in its own app."""
    other = Celery("other", broker="memory://", set_as_current=False)
    other.conf.pgnotifier_dsn = "dbname=other"
    one, two = CeleryNotifier(app), CeleryNotifier(other)
    one.subscribe("a", "ch", callback)
    two.subscribe("a", "ch", callback)
    two.subscribe("b", "ch", callback)
    assert names(app) == {"n.a"}
    assert names(other) == {"pgnotifier.a", "pgnotifier.b"}
    assert notifiers_of(other) == [two]


def test_shared_with_notifiers_made_before_and_after(app):
    """Notifiers made before and after a shared subscription get it; the function stays as it is."""

    def create(name):
        made = Celery(name, broker="memory://", set_as_current=False)
        made.conf.pgnotifier_dsn = "dbname=x"
        return made

    before, after = create("before"), create("after")
    first = CeleryNotifier(before)
    decorated = shared_subscription(["one", "two"], id="a", queue="low")(callback)
    second = CeleryNotifier(after)
    assert decorated is callback
    for notifier, its in ((first, before), (second, after)):
        assert notifier.get_subscriptions() == {"one": {"a": callback}, "two": {"a": callback}}
        assert names(its) == {"pgnotifier.a"}


def test_shared_tasks(app):
    """A `@shared_task` is subscribed as the task of the notifier's app."""

    @shared_task(name="shared.audit")  # every app of this process has it from now on
    def audit(*args): ...

    notifier = CeleryNotifier(app)
    notifier.subscribe("a", "ch", audit)
    assert current_app is not app
    ((_, enqueued),) = notifier._lifecycle.attachments.default.inventory().items()
    assert enqueued.task == "shared.audit"
    assert isinstance(notifier._lifecycle.attachments.default, CeleryDispatcher)


@pytest.mark.parametrize("lazy", [False, True])
def test_modules_are_discovered(app, tmp_path, monkeypatch, lazy):
    """`notifications.py` is imported with the app's tasks, in packages that have one."""
    for package in ("pgn_one", "pgn_two"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "pgn_one" / "notifications.py").write_text(
        "from pgnotifier.contrib.celery import shared_subscription\n"
        "@shared_subscription('orders')\n"
        "def invoice(id, channel, payload, pid): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    notifier = CeleryNotifier(app)
    packages = ["pgn_one", "pgn_two"]
    notifier.autodiscover((lambda: packages) if lazy else packages)
    assert "pgn_one.notifications" not in sys.modules
    try:
        app.loader.import_default_modules()
        assert list(notifier.get_subscriptions()["orders"]) == ["pgn_one.notifications.invoice"]
    finally:
        for name in [name for name in sys.modules if name.startswith("pgn_")]:
            del sys.modules[name]
