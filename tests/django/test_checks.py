"""System checks: the problems that `manage.py check` reports, with an id and a hint."""

import sys
from io import StringIO

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection, connections, models
from django.test.utils import isolate_apps

from pgnotifier.contrib.django import Channel, NotifyOn, notify_on
from pgnotifier.contrib.django.conf import check_settings
from pgnotifier.contrib.django.notifiers import MAKERS, get_notifier
from pgnotifier.errors import PgNotifierError


def said(**kwargs):
    """Return what the checks report, by id."""
    return {one.id: one for one in run_checks(**kwargs) if (one.id or "").startswith("pgnotifier.")}


def test_nothing_to_say():
    """A valid project has no problems."""
    assert said() == {}


@pytest.mark.parametrize(
    ("given", "number", "message", "hint"),
    [
        ([], "E001", "must be a dict", "list"),
        ({"DATABSE": "default"}, "E002", "no setting 'DATABSE'", "Did you mean 'DATABASE'?"),
        ({"xyzzy": 1}, "E002", "no setting 'xyzzy'", "There are DATABASE, DISPATCHER"),
        ({"HEARTBEAT": "15"}, "E003", "'HEARTBEAT'", "a number of seconds"),
        ({"BUFFER_SIZE": 0}, "E003", "'BUFFER_SIZE'", "at least 1. Default: 100000"),
        ({"OVERFLOW": "drop"}, "E003", "'OVERFLOW'", "'drop_oldest'"),
        ({"HEALTH_PORT": 70000}, "E003", "'HEALTH_PORT'", "a port"),
        ({"DATABASE": "nowhere"}, "E004", "'nowhere'", "'default', 'second', 'lite'"),
        ({"DATABASE": "lite"}, "E005", "SQLite", "Only PostgreSQL"),
        ({"HEARTBEAT": float("inf")}, "E003", "must be above 0", "a number of seconds"),
        ({"OVERFLOW": ["block"]}, "E003", "not ['block']", "'block', 'drop_oldest'"),
        ({"DISPATCHER": 5}, "E003", "not 5", "'celery', 'rq'"),
        ({"DISPATCHER": "celrey"}, "E006", "celrey", "celery, rq, tasks, inline"),
        (
            {"DISPATCHER": "celrey"},
            "E006",
            "must be a known name or a path, not 'celrey'",
            "Did you mean 'celery'?",
        ),
        (
            {"DISPATCHER": "shop.models.Order"},
            "E006",
            "must make a pgnotifier.Dispatcher",
            "path of a",
        ),
        ({"DISPATCHER": "shop.nowhere.at"}, "E006", "No module named", "path of a callable"),
        (
            {"DISPATCHER": "test_checks.fail"},
            "E006",
            "KeyError('no such thing')",
            "path of a callable",
        ),
        (
            {"DISPATCHER": "tasks", "TASKS_BACKEND": "x"},
            "E006",
            "must be an alias of TASKS, and 'x' can't",
            "path",
        ),
        ({"DISPATCHER": "celery", "CELERY_APP": "shop.models.Order"}, "E006", "Order", "path of"),
        ({"DISPATCHER": "celery", "CELERY_APP": "shop.x"}, "E006", "'CELERY_APP']: Mod", "path"),
        ({"ON_GAP": "shop.nowhere.at"}, "E011", "'ON_GAP']: No module", "doesn't start"),
        (
            {"ON_ERROR": "shop.models"},
            "E011",
            "'ON_ERROR'] must be the path of a callable",
            "doesn't start",
        ),
        ({}, "E012", "There are tasks, but tasks need PGNOTIFIER", "doesn't start"),
        ({"DISPATCHER": "rq", "RQ_QUEUE": "http://x"}, "E006", "redis://", "one of"),
    ],
)
def test_settings(settings, given, number, message, hint):
    """Unknown settings, wrong types and names that don't exist are reported, with a hint."""
    settings.PGNOTIFIER = given
    found = said()[f"pgnotifier.{number}"]
    assert message in found.msg
    assert hint in found.hint
    with pytest.raises(SystemCheckError, match=f"pgnotifier.{number}"):
        call_command("check", fail_level="WARNING", stderr=StringIO())


def fail():
    """Fail as the callable that makes a dispatcher."""
    raise KeyError("no such thing")


def test_what_a_package_is_missing(settings, monkeypatch):
    """If a dispatcher's package isn't installed, the check says how to install it."""
    for name in [name for name in sys.modules if name.startswith(("rq", "pgnotifier.contrib.rq"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rq", None)
    settings.PGNOTIFIER = {"DISPATCHER": "rq"}
    found = said()["pgnotifier.E006"]
    assert "needs rq, which isn't installed. Run: pip install 'pgnotifier[rq]'" in found.msg


def test_a_package_that_is_missing_is_said_once(settings, monkeypatch):
    """A missing package is reported once, not again for each task."""

    def fail():
        raise PgNotifierError("celery isn't installed")

    monkeypatch.setitem(MAKERS, "celery", fail)
    monkeypatch.setattr("pgnotifier.contrib.django.notifiers._dispatchers", {})
    settings.PGNOTIFIER = {"DISPATCHER": "celery"}
    channel = Channel("unserved")
    try:
        channel.task(lambda **_: None, id="late")
        assert said().keys() == {"pgnotifier.E006"}
    finally:
        get_notifier("default").remove_channel("unserved", autorun=False)
        del Channel.known["unserved"]


def test_a_task_that_is_refused(through):
    """A task that its dispatcher refuses is reported; once another accepts it, it is subscribed."""
    channel = Channel("refused")
    through("tasks")
    try:
        channel.task(lambda **_: None, id="late", expires=60)
        found = said()["pgnotifier.E014"]
        assert "Task 'late' of channel 'refused'" in found.msg
        assert "expires= is not an option of tasks" in found.msg
        assert "refused" not in get_notifier("default").get_subscriptions()
        through("inline")
        assert said() == {}
        assert get_notifier("default").get_subscriptions()["refused"].keys() == {"late"}
    finally:
        get_notifier("default").remove_channel("refused", autorun=False)
        del Channel.known["refused"]


def test_a_database_without_a_name(monkeypatch):
    """A database without a name, which Django can't connect to, is reported."""
    monkeypatch.setitem(connections["default"].settings_dict, "NAME", "")
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {})
    found = said()["pgnotifier.E015"]
    assert "Database 'default' can't be connected to" in found.msg


def test_an_option_that_libpq_has_not(monkeypatch):
    """The check names a connection option that libpq doesn't have."""
    options = {"aplication_name": "shop"}
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", options)
    assert "aplication_name" in said()["pgnotifier.E015"].msg


def test_values_that_are_fine(settings):
    """Valid values are accepted, and None stands for the default."""
    settings.PGNOTIFIER = {"STANDBY": "shop", "HEARTBEAT": 5, "OVERFLOW": None}
    assert check_settings() == []


@pytest.mark.parametrize("setting", [{"PORT": "6432"}, {"DISABLE_SERVER_SIDE_CURSORS": True}])
def test_a_pooler(monkeypatch, setting):
    """Settings that suggest a connection pooler cause a warning."""
    for name, value in setting.items():
        monkeypatch.setitem(connections["default"].settings_dict, name, value)
    found = said()["pgnotifier.W001"]
    assert "behind a pooler" in found.msg
    assert "check --database default" in found.hint


def test_databases_are_tried(db, monkeypatch):
    """With `--database`, a reachable database passes, and an unreachable one is reported."""
    assert said(databases=["default", "lite"]) == {}
    monkeypatch.setitem(connections["default"].settings_dict, "HOST", "127.0.0.1")
    monkeypatch.setitem(connections["default"].settings_dict, "PORT", "1")
    found = said(databases=["default"])
    assert "It is not possible to listen to database 'default'" in found["pgnotifier.E009"].msg


def test_a_table_that_a_stranger_has_made(stranger):
    """A table that a stranger owns is reported, as its triggers would run on writes."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE pgnotifier_listener OWNER TO {stranger}")
        cursor.execute("SELECT CURRENT_USER")
        (me,) = cursor.fetchone()
        found = said(databases=["default"])["pgnotifier.W003"]
        assert "'pgnotifier_listener' of database 'default' belongs to role 'stranger'" in found.msg
        cursor.execute(f"ALTER TABLE pgnotifier_listener OWNER TO {me}")


@pytest.mark.parametrize(
    "made_known",
    [
        "GRANT {stranger} TO CURRENT_USER",
        "ALTER ROLE {stranger} SUPERUSER",
        "ALTER TABLE django_migrations OWNER TO {stranger}",
        "ALTER DATABASE {database} OWNER TO {stranger}",
    ],
)
def test_a_table_of_another_role_of_the_project(stranger, made_known):
    """The table may belong to a related role, such as the one that runs migrations."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_USER, current_database()")
        me, database = cursor.fetchone()
        cursor.execute(f"ALTER TABLE pgnotifier_listener OWNER TO {stranger}")
        cursor.execute(made_known.format(stranger=stranger, database=database))
        assert said(databases=["default"]) == {}
        cursor.execute(f"REASSIGN OWNED BY {stranger} TO {me}")


@isolate_apps("shop")
def test_fields_that_are_not_there():
    """The check names the fields of a trigger that don't exist or have no column."""

    class Thing(models.Model):
        others = models.ManyToManyField("self")

        class Meta:
            app_label = "shop"
            constraints = (NotifyOn("x", update=["statsu"], old=["others"]),)

    found = [one for one in Thing.check(databases=["default"]) if one.id == "pgnotifier.E007"]
    assert [one.msg.split("names ")[1].split(",")[0] for one in found] == ["'statsu'", "'others'"]


@isolate_apps("shop")
def test_models_without_a_table_of_their_own():
    """Proxy and unmanaged models cause a warning: migrations create no trigger for them."""

    class Base(models.Model):
        class Meta:
            app_label = "shop"

    class Proxy(Base):
        class Meta:
            app_label = "shop"
            proxy = True

    class Foreign(models.Model):
        class Meta:
            app_label = "shop"
            managed = False

    for model in (Base, Proxy, Foreign):
        notify_on(model, channel="x", update=["id"])
        found = [one.id for one in model.check(databases=["default"])]
        assert found == ([] if model is Base else ["pgnotifier.W002"])


def test_a_channel_of_another_database(monkeypatch):
    """A channel in another database than the one its model is written to is reported."""
    monkeypatch.setattr(Channel("orders"), "_using", "second")
    found = said()["pgnotifier.E010"]
    assert "shop.Order is written to database 'default'" in found.msg
    assert "using='default'" in found.hint
