"""`PGNOTIFIER["OUTBOX"]`: tasks are published in transactions, without a line of code changed."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from celery import Celery
from celery.contrib.django.task import DjangoTask
from django.core.checks import run_checks
from django.db import connections, transaction
from kombu.exceptions import OperationalError
from test_outbox import fail, ids

from pgnotifier import durable
from pgnotifier.contrib.celery import CeleryOutbox
from pgnotifier.contrib.celery.outbox_capture import Capture
from pgnotifier.contrib.celery.relay import find_relayed
from pgnotifier.contrib.django import conf
from pgnotifier.contrib.django.durable.operations import open_driver
from pgnotifier.contrib.django.notifiers import get_notifier
from pgnotifier.contrib.django.outboxes import enable_outbox
from pgnotifier.contrib.django.task_outbox import use_outbox

CHANNEL = "pgnotifier:celery:default"
pytestmark = pytest.mark.django_db(databases=["default", "second"], transaction=True)


@pytest.fixture(autouse=True)
def committed(transactional_db):
    """Leave logs and notifiers as they were. The second database gets a log."""
    driver = open_driver(connections["second"])
    durable.install(driver)
    yield
    durable.uninstall(driver)
    for alias in ("default", "second"):
        notifier = get_notifier(alias)
        for name in notifier.get_subscriptions().get(CHANNEL, {}):
            notifier.unsubscribe(name, CHANNEL)
    with connections["default"].cursor() as cursor:
        cursor.execute("TRUNCATE pgnotifier.log, pgnotifier.subscription CASCADE")


@pytest.fixture
def app():
    """Return an app with a broker that is down."""
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.task_publish_retry = False
    return app


@pytest.fixture
def task(app):
    """Return a task."""
    return app.task(name="own", base=DjangoTask, shared=False)(run)


def run(*args):
    """Do nothing."""


def test_transactions(app, task):
    """In `atomic()`, a task is part of the transaction; outside, it is committed at once."""
    use_outbox(app, ["default"])
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        task.delay(0)
        fail()
    with transaction.atomic():
        first = task.delay(1)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            task.delay(2)
            fail()
    second = task.apply_async((3,), queue="low")
    assert ids() == [first.id, second.id]


def test_how_long_a_task_may_wait(app, settings):
    """`OUTBOX_MAX_AGE` is the limit of the relay, from which on it isn't ready."""
    settings.PGNOTIFIER = {"OUTBOX_MAX_AGE": 300}
    use_outbox(app, ["default"])
    found = get_notifier("default").get_durability("outbox:celery:shop", CHANNEL)
    assert found.max_age == timedelta(minutes=5)


def test_what_sql_may_ask_for(app, settings):
    """`OUTBOX_ALLOW` says so; what the project has given to `relay_to` takes precedence."""
    settings.PGNOTIFIER = {"OUTBOX_ALLOW": ["shop.*"], "OUTBOX_MAX_AGE": 300}
    outbox, notifier = CeleryOutbox(app), get_notifier("default")
    use_outbox(app, ["default"])
    assert find_relayed(outbox, notifier) == (True, ("shop.*",), timedelta(minutes=5))
    outbox.relay_to(notifier, allow=["billing.*"])
    use_outbox(app, ["default"])
    assert find_relayed(outbox, notifier) == (True, ("billing.*",), timedelta(minutes=5))
    outbox.relay_to(get_notifier("second"), max_age=timedelta(minutes=1))
    use_outbox(app, ["second"])
    found = find_relayed(outbox, get_notifier("second"))
    assert found == (True, ("shop.*",), timedelta(minutes=1))


def test_delay_on_commit(app, task):
    """`delay_on_commit` publishes once the transaction has committed."""
    use_outbox(app, ["default"])
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        task.delay_on_commit(0)
        fail()
    with transaction.atomic():
        task.delay_on_commit(1)
        assert ids() == []
    assert len(ids()) == 1


def test_blocks(app, task):
    """A block of an outbox takes what it encloses; the relay and the blocks share the outbox."""
    use_outbox(app, ["default"])
    with transaction.atomic(), CeleryOutbox(app)():
        first = task.delay(1)
        assert ids() == []
    assert ids() == [first.id]


def test_tasks_without(app, task):
    """A task with `outbox=False`, or one of asynchronous code, goes to the broker at once."""
    use_outbox(app, ["default"])
    other = app.task(name="other", outbox=False, shared=False)(run)

    async def publish():
        task.delay()

    with transaction.atomic(), pytest.raises(OperationalError):
        other.delay()
    with pytest.raises(OperationalError):
        asyncio.run(publish())
    assert ids() == []


def test_exclusions(app, task, settings):
    """`OUTBOX_EXCLUDE` names tasks that go to the broker at once; a block takes them, too."""
    settings.PGNOTIFIER = {"OUTBOX_EXCLUDE": ["vendor.*", "named"]}
    use_outbox(app, ["default"])
    vendor = app.task(name="vendor.mail", shared=False)(run)
    with transaction.atomic():
        for publish in (
            vendor.delay,
            vendor.s().apply_async,
            lambda: app.send_task("named"),
            lambda: task.apply_async(outbox=False),
        ):
            with pytest.raises(OperationalError):
                publish()
        kept = [task.delay(), app.send_task("other.named")]
        with CeleryOutbox(app)():
            kept.append(vendor.delay())
            with pytest.raises(OperationalError):
                vendor.apply_async(outbox=False)
    assert ids() == [one.id for one in kept]


def test_unsafe_asynchronous_code(app, task, monkeypatch):
    """If Django lets asynchronous code use its connections, tasks are in transactions there."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    use_outbox(app, ["default"])

    async def publish():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            task.delay(0)
            fail()
        with transaction.atomic():
            found = task.delay(1)
        connections.close_all()  # a loop has its own
        return found

    assert [asyncio.run(publish()).id] == ids()


def test_databases(app, task):
    """Of several databases, the one with an open transaction gets the task, else the first."""
    use_outbox(app, ["default", "second"])
    with transaction.atomic(using="second"):
        first = task.delay()
    second = task.delay()
    assert (ids("second"), ids()) == ([first.id], [second.id])


def test_databases_without_autocommit(app, task):
    """A transaction that was begun by `set_autocommit(False)` gets the task as well."""
    use_outbox(app, ["default", "second"])
    transaction.set_autocommit(False, using="second")
    try:
        task.delay(0)
        transaction.rollback("second")
        first = task.delay(1)
        with transaction.atomic():
            second = task.delay(2)
        transaction.commit("second")
    finally:
        transaction.set_autocommit(True, using="second")
    assert (ids("second"), ids()) == ([first.id], [second.id])


def test_databases_that_are_not_connected(app, task):
    """Nothing is connected to only to find out whether it has a transaction."""
    use_outbox(app, ["default", "second"])

    def publish():
        task.delay()
        found = [connections[alias].connection is None for alias in ("default", "second")]
        connections.close_all()
        return found

    with ThreadPoolExecutor() as pool:
        assert pool.submit(publish).result(60) == [False, True]


def test_the_relay(app):
    """The notifier of each database relays, once."""
    for _ in range(2):
        use_outbox(app, ["default", "second"])
    for alias in ("default", "second"):
        assert list(get_notifier(alias).get_subscriptions()[CHANNEL]) == ["outbox:celery:shop"]


@pytest.mark.parametrize(
    ("given", "aliases"),
    [
        (True, ("second",)),
        ("default", ("default",)),
        (["default", "second"], ("default", "second")),
        (False, ()),
        (None, ()),
    ],
)
def test_the_setting(settings, given, aliases):
    """True stands for the database of the other settings."""
    settings.PGNOTIFIER = {"DATABASE": "second", "OUTBOX": given}
    assert conf.check_settings() == []
    assert conf.outbox_aliases() == aliases


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("OUTBOX", given) for given in (7, "", [], ["default", 7])),
        *(("OUTBOX_ALLOW", given) for given in (7, "shop.*", ["shop.*", 7])),
        *(("OUTBOX_EXCLUDE", given) for given in (7, "vendor.*", ["vendor.*", ""])),
    ],
)
def test_wrong_settings(settings, name, given):
    """Other values are refused."""
    settings.PGNOTIFIER = {name: given}
    ((number, problem),) = conf.check_settings()
    assert number == "E003"
    assert f"PGNOTIFIER[{name!r}] must be" in problem.message


def test_enabling(settings, app, monkeypatch):
    """The setting makes the project's app use the outbox; without an app, that is an error."""
    monkeypatch.setattr("celery._state._get_active_apps", set)
    monkeypatch.setattr("celery._state.default_app", None)
    monkeypatch.setattr("celery._state._tls.current_app", None)
    settings.PGNOTIFIER = {"OUTBOX": True}
    found = [one for one in run_checks() if one.id == "pgnotifier.E017"]
    assert "there is no Celery app" in found[0].msg
    monkeypatch.setattr("celery._state._tls.current_app", app)
    enable_outbox()
    assert Capture.of(app).find() is not None
    assert [one for one in run_checks() if one.id == "pgnotifier.E017"] == []
