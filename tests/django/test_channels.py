"""Channels: Django signals that are sent by PostgreSQL notifications."""

import asyncio
import gc
import logging
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, transaction
from django.db.models import TextChoices
from django.dispatch import Signal, receiver
from django.utils.translation import gettext_lazy

from pgnotifier import ChannelNameError, PayloadEncodingError, PayloadTooLargeError
from pgnotifier.contrib.django import Channel
from pgnotifier.contrib.django.notifiers import get_notifier
from pgnotifier.contrib.django.test import captureNotifications
from pgnotifier.errors import ArgumentTypeError
from shop.models import Order, orders


@pytest.fixture
def channel(request):
    """Yield a channel that only this test uses."""
    channel = Channel(f"test {request.node.name}"[:60])
    yield channel
    channel.receivers.clear()
    get_notifier("default").remove_channel(channel.name, autorun=False)
    del Channel.known[channel.name]


def subscribed(channel):
    """Return whether the notifier has subscriptions on the channel."""
    return channel.name in get_notifier(channel.database).get_subscriptions()


def test_one_for_each_name():
    """`Channel` returns the same object for the same name, and refuses invalid names."""
    assert Channel("orders") is orders
    assert Channel("Orders") is not orders
    assert isinstance(orders, Signal)
    assert repr(orders) == "<Channel 'orders'>"
    assert Channel("notes", using="second").database == "second"
    with pytest.raises(ImproperlyConfigured, match="'notes' belongs to database 'second' already"):
        Channel("notes", using="default")
    with pytest.raises(ChannelNameError):
        Channel("x" * 64)
    with pytest.raises(ChannelNameError, match="is reserved"):
        Channel("pgnotifier:celery:default", durable=True)
    with pytest.raises(ArgumentTypeError):
        Channel(5)


def test_what_a_receiver_gets(db, channel):
    """A receiver gets payload, pid, channel, notification, signal and sender."""
    seen = []

    @channel.connect
    def take(**kwargs):
        seen.append(kwargs)

    with captureNotifications(execute=True):
        channel.notify({"id": 1, "tags": (1, b"x")})
    (given,) = seen
    arrived = given["notification"]
    assert given == {
        "signal": channel,
        "sender": channel,
        "payload": {"id": 1, "tags": (1, b"x")},
        "pid": connection.connection.info.backend_pid,
        "channel": channel.name,
        "notification": arrived,
    }
    assert (arrived.channel, arrived.payload) == (channel.name, given["payload"])
    assert arrived.raw == "{'id':1,'tags':(1,b'x')}"
    assert arrived.received_at.tzinfo


def test_ways_to_connect(channel):
    """`connect` works as a decorator, with or without arguments; so does Django's `receiver`."""

    @channel.connect
    def one(**kwargs):
        """Do nothing."""

    @channel.connect(dispatch_uid="two", weak=False)
    def two(**kwargs):
        """Do nothing."""

    @receiver(channel)
    def three(**kwargs):
        """Do nothing."""

    def four(**kwargs):
        """Do nothing."""

    channel.connect(four)
    assert channel.live_receivers() == [one, two, three, four]
    assert subscribed(channel)


def test_once_for_a_uid(channel):
    """Connecting again with the same `dispatch_uid` has no effect, as with any signal."""
    for _ in range(2):
        channel.connect(lambda **_: None, weak=False, dispatch_uid="same")
    assert len(channel.live_receivers()) == 1


def test_weakly_by_default(channel):
    """A receiver that was garbage collected isn't called, unless connected with `weak=False`."""
    seen = []

    def connect():
        def weak(**_):
            seen.append("weak")

        def strong(**_):
            seen.append("strong")

        channel.connect(weak)
        channel.connect(strong, weak=False)

    connect()
    gc.collect()
    channel.send_robust(channel, payload=1)
    assert seen == ["strong"]
    assert len(channel.live_receivers()) == 1


def test_disconnected(channel):
    """Disconnecting the last receiver removes the subscription."""

    def take(**_):
        """Do nothing."""

    channel.connect(take)
    channel.connect(take, dispatch_uid="again")
    assert channel.disconnect(take)
    assert subscribed(channel)
    assert channel.disconnect(dispatch_uid="again")
    assert not subscribed(channel)
    assert not channel.disconnect(take)


def test_by_sender(db, channel):
    """A payload of `notify_on` has its model as the sender; any other has the channel."""
    seen = []
    channel.connect(lambda payload, **_: seen.append(("model", payload)), sender=Order, weak=False)
    channel.connect(
        lambda payload, **_: seen.append(("plain", payload)), sender=channel, weak=False
    )
    of_model = {"model": "shop.order", "operation": "insert"}
    other = {"model": "no.such"}
    with captureNotifications(execute=True):
        for payload in (of_model, other, {"model": 5}, [1]):
            channel.notify(payload)
    assert seen == [("model", of_model), ("plain", other), ("plain", {"model": 5}), ("plain", [1])]


def test_async_receivers(db, channel):
    """Async receivers are awaited, and plain receivers of the channel are called as well."""
    seen = []

    async def wait(payload, **_):
        await asyncio.sleep(0)
        seen.append(("async", payload))

    def take(payload, **_):
        seen.append(("plain", payload))

    channel.connect(wait)
    channel.connect(take)
    with captureNotifications(execute=True):
        channel.notify(1)
    assert sorted(seen) == [("async", 1), ("plain", 1)]


def test_errors_of_receivers(channel, caplog):
    """`send_robust` returns and logs a receiver's error, and calls the other receivers."""
    seen = []

    def bad(**_):
        raise ValueError("bad")

    channel.connect(bad)
    channel.connect(lambda **_: seen.append(1), weak=False)
    responses = channel.send_robust(channel, payload=1)
    assert [type(response) for _, response in responses] == [ValueError, type(None)]
    assert seen == [1]
    assert "Error calling" in caplog.text


def test_sending_in_a_transaction(transactional_db, live_notifications, calls):
    """A notification is sent on COMMIT, and not after a rollback, even to a savepoint."""
    with transaction.atomic():
        orders.notify("kept")
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            orders.notify("lost with its savepoint")
            1 / 0  # noqa: B018
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        orders.notify("lost")
        1 / 0  # noqa: B018
    orders.notify("last")
    assert [one.payload for one in live_notifications.wait_for(2)] == ["kept", "last"]
    assert [(what, payload) for what, _, payload, _ in calls] == [
        ("order", "kept"),
        ("order", "last"),
    ]


def test_sending_from_a_coroutine(transactional_db, live_notifications):
    """`anotify` sends a notification from a coroutine."""
    async_to_sync(orders.anotify)({"n": 1})
    assert [one.payload for one in live_notifications.wait_for(1)] == [{"n": 1}]


AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@pytest.mark.parametrize(
    "value",
    [
        *(
            AT,
            AT.replace(microsecond=0),
            AT.replace(tzinfo=None),
            AT.astimezone(ZoneInfo("Asia/Kolkata")),
        ),
        *(AT.replace(tzinfo=timezone(timedelta(seconds=30))), AT.date(), date(1, 1, 1)),
        *(time(3, 4), time(3, 4, 5, 1), time(3, tzinfo=ZoneInfo("Europe/Berlin"))),
        *(timedelta(), timedelta(days=-3, microseconds=5), timedelta(days=400, hours=30)),
        *(Decimal("1.50"), Decimal("1E+20"), Decimal("-0"), UUID(int=5), gettext_lazy("Saturday")),
    ],
    ids=repr,
)
def test_values_are_written_as_django_does(db, value):
    """`notify` writes values as `DjangoJSONEncoder` does, also within containers."""
    with captureNotifications() as sent:
        orders.notify({"value": [value]})
        orders.notify(value)
        orders.notify({"encoded": [value]}, encoder=DjangoJSONEncoder)
    written = DjangoJSONEncoder().default(value)
    assert [one.payload for one in sent] == [{"value": [written]}, written, {"encoded": [written]}]


def test_values_that_django_does_not_write(db):
    """An aware time is refused, as in Django; an enum member is sent as its value."""
    with captureNotifications() as sent:
        with pytest.raises(PayloadEncodingError, match=r"a time with an offset .*payload\['at'\]"):
            orders.notify({"at": time(1, tzinfo=UTC)})
        orders.notify(TextChoices("Size", "SMALL LARGE").SMALL)
        orders.notify([Enum("Size", {"S": (1, 2)}).S])
        async_to_sync(orders.anotify)(object(), None, lambda _: "mine")
    assert [one.payload for one in sent] == ["SMALL", [(1, 2)], "mine"]


def test_what_can_not_be_sent(db):
    """A payload that can't be sent is refused without breaking the transaction."""
    with captureNotifications() as sent:
        with pytest.raises(PayloadTooLargeError, match="8000 bytes"):
            orders.notify("x" * 8000)
        with pytest.raises(PayloadEncodingError):
            orders.notify(object())
        orders.notify("fine")
    assert [one.payload for one in sent] == ["fine"]


def test_errors_in_the_listener(transactional_db, eventually, caplog):
    """The listener reports a receiver's error once, and delivers later notifications."""
    caplog.set_level(logging.ERROR)
    seen = []

    def bad(payload, **_):
        seen.append(payload)
        raise SystemExit(3) if payload == 2 else ValueError("bad")

    orders.connect(bad)
    notifier = get_notifier("default")
    notifier.start()
    before = notifier.status().errors
    try:
        for number in (1, 2, 3):
            orders.notify(number)
        eventually(lambda: len(seen) == 3)
        eventually(lambda: notifier.status().errors == before + 3)
    finally:
        notifier.stop()
        orders.disconnect(bad)
    assert "Error calling" not in caplog.text
    assert "subscription 'receivers' on channel 'orders' failed" in caplog.text


def test_connected_while_it_listens(transactional_db, eventually, channel):
    """While the listener runs, a subscription is active when `connect` returns."""
    notifier = get_notifier("default")
    notifier.start()
    seen = []
    try:
        channel.connect(lambda payload, **_: seen.append(payload), weak=False)
        channel.notify(1)
        eventually(lambda: seen == [1])
    finally:
        notifier.stop()


def test_gaps_alone(channel):
    """A channel stays subscribed while only its `gap` signal has receivers."""

    def receiver(**_):
        """Do nothing."""

    channel.gap.connect(receiver)
    assert subscribed(channel)
    channel.connect(receiver)
    channel.disconnect(receiver)
    assert subscribed(channel)


def test_gaps(transactional_db, eventually, channel):
    """After a lost connection, receivers of `gap` are called before later notifications arrive."""
    seen = []
    channel.connect(lambda payload, **_: seen.append(payload), weak=False)
    channel.gap.connect(lambda gap, **_: seen.append(gap), weak=False)
    notifier = get_notifier("default")
    notifier.start()
    before = notifier.status().gaps  # it may have been started before
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                " current_database() AND application_name = 'pgnotifier'"
            )
        eventually(lambda: notifier.status().gaps > before)
        eventually(lambda: notifier.status().state == "listening")
        channel.notify("later")
        eventually(lambda: len(seen) == 2)
    finally:
        notifier.stop()
    assert channel.name in seen[0]["channels"]
    assert seen[1] == "later"
