"""Durable channels and triggers, publishing, and the migration that installs the log."""

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection, connections, models, transaction
from django.dispatch import receiver
from django.test.utils import CaptureQueriesContext, isolate_apps
from django.utils.translation import gettext_lazy

from pgnotifier.contrib.django import (
    Channel,
    NotifyOn,
    apublish,
    apublish_many,
    publish,
    publish_many,
)
from pgnotifier.contrib.django import checks as our_checks
from pgnotifier.contrib.django.notifiers import get_notifier
from pgnotifier.contrib.django.test import captureNotifications, liveNotifications
from pgnotifier.durable import publish as publish_by_connection
from pgnotifier.durable import publish_many as publish_many_by_connection
from pgnotifier.errors import ArgumentTypeError, LogNotInstalledError
from pgnotifier.payload import decode
from shop.models import Parcel, parcels


def published(channel="parcels", alias="default"):
    """Return the keys and payloads that were published to a channel, in order."""
    with connections[alias].cursor() as cursor:
        cursor.execute(
            "SELECT key, payload FROM pgnotifier.log WHERE channel = %s ORDER BY id", [channel]
        )
        return [(key, decode(payload)) for key, payload in cursor.fetchall()]


@pytest.fixture
def committed(transactional_db):
    """Let transactions commit; afterwards the log is empty, as before."""
    _empty()
    yield
    _empty()


def _empty():
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE pgnotifier.log, pgnotifier.subscription CASCADE")


@pytest.fixture
def listening(committed):
    """Yield the project's notifier for the default database, while it listens."""
    notifier = get_notifier("default")
    notifier.start()
    yield notifier
    notifier.stop()


# --- publishing ---


def test_in_the_transaction(committed):
    """What is published is there after `atomic()`, and not if that or its savepoint fails."""
    with transaction.atomic():
        made = [publish("parcels", {"a": 1}, "k")]
        made += publish_many(parcels, range(3), key=str, order="key")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            parcels.notify("lost")
            1 / 0  # noqa: B018
    assert published() == [("k", {"a": 1}), ("0", 0), ("1", 1), ("2", 2)]
    assert made == sorted(made)


def test_without_a_transaction(committed):
    """Without `atomic()`, an entry is published at once, and many of them all or none."""

    def breaking():
        yield from range(3000)
        raise ZeroDivisionError

    parcels.notify("one", key="k")
    with pytest.raises(ZeroDivisionError):
        publish_many("parcels", breaking())
    assert published() == [("k", "one")]
    assert len(publish_many("parcels", range(3000))) == 3000
    assert len(published()) == 3001


def test_by_a_connection_of_django(committed):
    """The functions of `pgnotifier.durable` take connections of Django as well."""
    publish_by_connection(connection, "parcels", 1)
    with transaction.atomic():
        publish_many_by_connection(connection, "parcels", [2, 3])
        assert connection.in_atomic_block
    assert [payload for _, payload in published()] == [1, 2, 3]


def test_in_coroutines(committed):
    """`apublish` and its like publish from coroutines."""

    async def publish_all():
        await apublish("parcels", 1, "k", order="key")
        await apublish_many("parcels", [2, 3])
        await parcels.anotify(4, key="k")

    async_to_sync(publish_all)()
    assert published() == [("k", 1), (None, 2), (None, 3), ("k", 4)]


def test_values(db):
    """Payloads may have over 7,999 bytes; lazy texts and a channel's encoder work."""
    parcels.notify("x" * 100_000)
    parcels.notify(gettext_lazy("text"))
    parcels.publish([object()], encoder=lambda one: "object")
    assert [payload for _, payload in published()] == ["x" * 100_000, "text", ["object"]]


def test_statements_are_django_s(db):
    """Publications are seen by Django's log of statements."""
    with CaptureQueriesContext(
        connection,
    ) as queries:
        publish("parcels", 1)
        publish_many("parcels", [2, 3])
    assert len(queries) == 2


@pytest.mark.django_db(databases=["default", "second"])
def test_another_database():
    """`using` chooses the database, and one without the log says what to do."""
    with pytest.raises(LogNotInstalledError, match="pgnotifier install"):
        publish("parcels", 1, using="second")


# --- channels ---


def test_one_channel_for_each_name():
    """A channel is durable or not, wherever it is defined."""
    assert parcels.durable
    assert Channel("parcels") is parcels is Channel("parcels", durable=True)
    with pytest.raises(ImproperlyConfigured, match="durable=True"):
        Channel("parcels", durable=False)
    volatile = Channel("a volatile one")
    assert not volatile.durable
    with pytest.raises(ImproperlyConfigured, match="durable=False"):
        Channel("a volatile one", durable=True)


def test_keys_are_for_durable_channels(db):
    """A notification has no key."""
    with pytest.raises(ArgumentTypeError, match="isn't durable"):
        Channel("a volatile one").notify(1, key="k")


def test_receivers_get_what_was_published(listening, eventually):
    """Receivers get entries, also those that were published while nothing listened."""
    seen = []
    channel = Channel("received", durable=True)
    take = receiver(channel)(lambda payload, **given: seen.append((payload, given)))
    try:
        eventually(lambda: channel.name in listening.get_channels())
        listening.restart()
        channel.notify("first", key="k")
        eventually(lambda: len(seen) == 1)
        listening.stop()
        channel.notify("while it was down")
        listening.start()
        eventually(lambda: len(seen) == 2)
    finally:
        channel.disconnect(take)
        del Channel.known[channel.name]
    (first, given), (second, _) = seen
    assert (first, second) == ("first", "while it was down")
    assert given["notification"].key == "k"
    assert given["notification"].id > 0
    assert given["sender"] is channel


def test_tasks_get_what_was_published(listening, eventually):
    """Tasks get entries, and are tried again if they fail."""
    seen = []
    channel = Channel("worked", durable=True)

    @channel.task(id="task", start="oldest")
    def work(payload, **_):
        seen.append(payload)
        if len(seen) == 1:
            raise ValueError("once")

    try:
        listening.restart()
        channel.notify("again")
        eventually(lambda: len(seen) == 2)
    finally:
        listening.unsubscribe("task", channel.name)
        channel._kept.discard(channel)
        del Channel.known[channel.name]
    assert seen == ["again", "again"]


# --- triggers ---


def test_a_durable_trigger(db):
    """Each change publishes an entry, with the primary key as its key, of any size."""
    parcel = Parcel.objects.create(text="x" * 20_000)
    parcel.text = "y"
    parcel.save()
    key = str(parcel.pk)
    parcel.delete()
    found = published()
    assert [one for one, _ in found] == [key] * 3
    assert [payload["operation"] for _, payload in found] == ["insert", "update", "delete"]
    assert found[0][1]["new"]["text"] == "x" * 20_000
    assert "truncated" not in found[0][1]


def test_a_change_fails_without_a_log(transactional_db):
    """If nothing can be published, the change of the row fails."""
    call_command("migrate", "pgnotifier_durable", "zero", verbosity=0)
    try:
        with pytest.raises(Exception, match=r"pgnotifier.*does not exist"):
            Parcel.objects.create(text="a")
    finally:
        call_command("migrate", "pgnotifier_durable", verbosity=0)
    Parcel.objects.create(text="a")
    assert len(published()) == 1
    _empty()


def test_durability_of_triggers():
    """A trigger is durable as its channel is; names of others stay as they were."""
    assert NotifyOn(parcels).durable
    assert not NotifyOn("parcels").durable
    assert NotifyOn("a", durable=True).durable
    assert NotifyOn("a", durable=True, name="n") != NotifyOn("a", name="n")
    assert "durable" not in NotifyOn("a").deconstruct()[2]
    assert NotifyOn("a", durable=True).deconstruct()[2]["durable"] is True
    assert NotifyOn("a").name != NotifyOn("a", durable=True).name


@isolate_apps("shop")
def test_a_trigger_that_differs_from_its_channel(monkeypatch):
    """`check` reports a trigger that publishes where its channel doesn't read, or the reverse."""

    class Crate(models.Model):
        class Meta:
            app_label = "shop"
            constraints = (NotifyOn("parcels", name="n"),)

    config = apps.get_app_config("shop")
    monkeypatch.setattr(config, "get_models", lambda: [Crate])
    (problem,) = our_checks.check_models([config])
    assert problem.id == "pgnotifier.E016"
    assert "durable=True" in problem.msg


# --- the migration ---


def test_the_migration(transactional_db):
    """`migrate` installs the log, its reverse drops it, and `check` reports if it is missing."""
    assert our_checks.check_log(None, ["default"]) == []
    call_command("migrate", "pgnotifier_durable", "zero", verbosity=0)
    (problem,) = our_checks.check_log(None, ["default", "lite"])
    assert problem.id == "pgnotifier.W004"
    assert our_checks.check_log(None, None) == []
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('pgnotifier.log') IS NULL")
        assert cursor.fetchone() == (True,)
    call_command("migrate", "pgnotifier_durable", verbosity=0)
    assert our_checks.check_log(None, ["default"]) == []
    with connection.cursor() as cursor:
        cursor.execute("SHOW search_path")
        assert cursor.fetchone() == ('"$user", public',)


def test_the_migration_as_sql(db, capsys):
    """`sqlmigrate` prints the statements, forwards and backwards."""
    call_command("sqlmigrate", "pgnotifier_durable", "0001")
    assert "CREATE TABLE pgnotifier.log" in capsys.readouterr().out
    call_command("sqlmigrate", "pgnotifier_durable", "0001", backwards=True)
    assert "DROP SCHEMA IF EXISTS pgnotifier CASCADE" in capsys.readouterr().out


def test_the_upgrade_as_sql(db, capsys):
    """Each version is printed once, by its migration. The reverse of an upgrade is nothing."""
    printed = []
    for number in ("0001", "0002"):
        call_command("sqlmigrate", "pgnotifier_durable", number)
        printed.append(capsys.readouterr().out)
    assert ["CREATE SCHEMA pgnotifier" in one for one in printed] == [True, False]
    assert ["SET version = 2" in one for one in printed] == [False, True]
    call_command("sqlmigrate", "pgnotifier_durable", "0002", backwards=True)
    assert "pgnotifier." not in capsys.readouterr().out


def test_migrating_back_from_an_upgrade_keeps_the_log(committed):
    """The reverse of an upgrade keeps the log with its entries."""
    parcels.notify("kept")
    call_command("migrate", "pgnotifier_durable", "0001", verbosity=0)
    assert len(published()) == 1
    call_command("migrate", "pgnotifier_durable", verbosity=0)
    assert len(published()) == 1


def test_publishing_and_notifying(db):
    """What is published with `notify` is captured once, as an entry."""
    with captureNotifications() as sent:
        publish("parcels", {"n": 1}, "k", notify=True)
        publish_many("parcels", [2, 3], notify=True)
    assert [(one.payload, one.id is not None) for one in sent] == [
        ({"n": 1}, True),
        (2, True),
        (3, True),
    ]


# --- helpers for tests ---


def test_capturing(db):
    """What the block publishes is captured in order, with ids and keys, and nothing from before."""
    parcels.notify("before")
    with captureNotifications() as sent:
        parcels.notify("one", key="k")
        Channel("a volatile one").notify("two")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            parcels.notify("lost")
            1 / 0  # noqa: B018
        Parcel.objects.create(text="three")
    assert [one.channel for one in sent] == ["parcels", "a volatile one", "parcels"]
    assert [one.key for one in sent][:2] == ["k", None]
    assert sent[2].payload["new"]["text"] == "three"
    assert sent[0].id < sent[2].id
    assert sent[1].id is None


def test_capturing_some_channels_and_executing(db):
    """`channels` and `execute` work for durable channels."""
    seen = []
    parcels.connect(take := lambda payload, **_: seen.append(payload))
    try:
        with captureNotifications(channels=[parcels], execute=True) as sent:
            parcels.notify(1)
            Channel("a volatile one").notify(2)
    finally:
        parcels.disconnect(take)
    assert [one.payload for one in sent] == seen == [1]


def test_live(committed):
    """A live listener delivers what is published in the block, and forgets its position."""
    parcels.notify("before")
    for number in range(2):
        with liveNotifications() as live:
            Parcel.objects.create(text="a")
            parcels.notify(number)
            first, second = live.wait_for(2)
        assert first.payload["operation"] == "insert"
        assert second.payload == number
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pgnotifier.subscription WHERE name LIKE '%test%'")
        assert cursor.fetchone() == (0,)


def test_live_errors(committed):
    """A receiver's error fails the test, and the entry isn't tried again."""

    def bad(**_):
        raise ValueError("bad")

    parcels.connect(bad)
    try:
        with liveNotifications() as live:
            parcels.notify(1)
            with pytest.raises(ValueError, match="bad"):
                live.wait_for(1)
    finally:
        parcels.disconnect(bad)
