"""Receivers get payloads of `notify_on` with money as Decimal, and the model as the sender."""

import gc
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.test.utils import isolate_apps

from pgnotifier import Notification
from pgnotifier.contrib.django import Channel, NotifyOn
from pgnotifier.contrib.django.changes import find_model, restore_values
from pgnotifier.contrib.django.running import run
from pgnotifier.contrib.django.test import captureNotifications
from pgnotifier.payload import decode
from shop.models import Order
from shop.notifications import found

UPDATE = {"model": "shop.order", "operation": "update", "pk": 5}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", "5.00"), ("5.00", "5.00"), ("0.1", "0.10"), ("1e3", "1000.00"), ("-0.00", "0.00"),
        ("9999999.99", "9999999.99"), ("0.123", "0.123"), ('"NaN"', "NaN"),
        ('"-Infinity"', "-Infinity"),
    ],
)  # fmt: skip
def test_money(text, expected):
    """A `numeric` value becomes a Decimal with the decimal places of its field."""
    payload = UPDATE | decode(f'{{"old": {{"amount": {text}}}, "new": {{"amount": {text}}}}}')
    restore_values(Order, payload)
    for side in ("old", "new"):
        value = payload[side]["amount"]
        assert type(value) is Decimal
        assert str(abs(value) if value == 0 else value) == expected


def test_what_is_not_money():
    """Other fields, missing values and values that aren't numbers stay unchanged."""
    for values in ({}, {"amount": None}, {"amount": "x"}, {"amount": [1]}, {"note": 1.5}, 5, None):
        payload = UPDATE | {"new": values}
        restore_values(Order, payload)
        assert payload == UPDATE | {"new": values}
    assert type(decode('{"note": 1.5}')["note"]) is float
    for payload in (None, 5, "text", [1, None, {"model": 5}], {"model": "no.such"}, {}):
        restore_values(find_model(payload), payload)


def test_numbers_that_no_column_has():
    """A number with a huge exponent is left as it is, so it can't fill the memory."""
    payload = UPDATE | {"new": {"amount": Decimal("1e999999")}}
    restore_values(Order, payload)
    assert payload["new"]["amount"] == Decimal("1e999999")


@isolate_apps("shop")
def test_where_else_money_is():
    """Decimals are restored in primary keys, in foreign keys and in arrays."""

    class Priced(models.Model):
        price = models.DecimalField(primary_key=True, max_digits=9, decimal_places=2)
        steps = ArrayField(ArrayField(models.DecimalField(max_digits=5, decimal_places=1)))

        class Meta:
            app_label = "shop"

    class Of(models.Model):
        pk = models.CompositePrimaryKey("a", "priced")
        a = models.IntegerField()
        priced = models.ForeignKey(Priced, models.CASCADE)

        class Meta:
            app_label = "shop"

    payload = {"pk": 5.5, "new": {"price": 5.5, "steps": [[1, 2.5], [None, 3]]}}
    restore_values(Priced, payload)
    assert str(payload["pk"]) == "5.50"
    assert [str(one) for row in payload["new"]["steps"] for one in row] == [
        "1.0", "2.5", "None", "3.0"
    ]  # fmt: skip
    payload = {"pk": [1, 5.5], "new": {"priced_id": 5}}
    restore_values(Of, payload)
    assert payload["pk"] == [1, Decimal("5.50")]
    assert type(payload["pk"][0]) is int
    assert str(payload["new"]["priced_id"]) == "5.00"


def test_receivers_and_tasks(db, calls):
    """Receivers and tasks get Decimals, tasks also in batches; `raw` is the text as sent."""
    payload = '{"model": "shop.order", "pk": 1, "new": {"amount": 7.10}}'
    arrived = Notification("found", decode(payload), payload, 1, datetime.now(UTC))
    seen = []
    found.connect(take := lambda **kwargs: seen.append(kwargs))
    try:
        assert found.deliver(arrived) == []
    finally:
        found.disconnect(take)
    run("work", "found", decode(payload), 1)
    run("work", "found", [decode(payload), {"model": "shop.customer"}], 1)
    (given,) = seen
    (_, sender, given_to_task, more), (_, _, batch, _) = calls
    assert given["sender"] is sender is Order
    for one in (given["payload"], given["notification"].payload, given_to_task, batch[0]):
        assert str(one["new"]["amount"]) == "7.10"
    assert more["notification"].raw == '{"model":"shop.order","pk":1,"new":{"amount":7.1}}'
    assert batch[1] == {"model": "shop.customer"}


def test_a_row_of_the_database(db, calls):
    """Payloads have the Decimals that a query returns, both in receivers and in captures."""
    made = NotifyOn("found", old=["amount"], new=True, name="pgnotifier_money")
    with connection.schema_editor(atomic=False) as editor:
        editor.execute(made.create_sql(Order, editor), None)
        with captureNotifications(channels=["found"], execute=True) as sent:
            Order.objects.create(item="tea", amount=Decimal("12.30"))
            Order.objects.update(amount=7)
        editor.execute(made.remove_sql(Order, editor), None)
    payloads = [one.payload for one in sent] + [payload for _, _, payload, _ in calls]
    assert len(payloads) == 6
    for payload in payloads:
        assert type(payload["new"]["amount"]) is Decimal
        if payload["operation"] == "insert":
            assert str(payload["new"]["amount"]) == "12.30"
        else:
            assert str(payload["new"]["amount"]) == "7.00"
            assert str(payload["old"]["amount"]) == "12.30"


@pytest.fixture
def growth():
    """Return a function that calls another twice, and returns the second call's memory growth."""

    def growth(call):
        call()
        gc.collect()
        tracemalloc.start()
        try:
            call()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    return growth


def test_models_that_a_sender_makes_up(growth):
    """Unknown model names in payloads aren't kept in memory."""
    number = 0

    def deliver():
        nonlocal number
        for _ in range(300):
            number += 1
            payload = {"model": f"shop.{'x' * 1000}{number}"}
            found.deliver(Notification("found", payload, "", 1, datetime.now(UTC)))
            assert find_model(payload) is None

    found.connect(take := lambda **_: None)
    try:
        assert growth(deliver) < 50_000
    finally:
        found.disconnect(take)


def test_channels_that_a_user_makes_up(db, growth):
    """A channel that is only notified is forgotten; one with a receiver is kept."""
    number = 0

    def notify():
        nonlocal number
        for _ in range(300):
            number += 1
            Channel(f"room {number} {'x' * 40}").notify(1)

    assert growth(notify) < 50_000
    channel = Channel("kept")
    channel.connect(take := lambda **_: None)
    known = id(channel)
    del channel
    gc.collect()
    assert id(Channel("kept")) == known
    Channel("kept").disconnect(take)
    del Channel.known["kept"]
