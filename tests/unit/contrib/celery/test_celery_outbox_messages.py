"""A message for a worker becomes an entry of the log, and comes out of it unchanged."""

import json

import pytest
from celery import Celery
from kombu.utils import json as kombu_json

from pgnotifier.contrib.celery import CeleryNotifier
from pgnotifier.contrib.celery.errors import MessageFormatError
from pgnotifier.contrib.celery.listing import show_json, show_table
from pgnotifier.contrib.celery.outbox_messages import (
    Destination,
    channel_of,
    make,
    subscription_of,
)
from pgnotifier.contrib.celery.relay_messages import read


def message(exchange="", routing_key="low", priority=0, **properties):
    return {
        "body": "W1s3XSwge30sIHt9XQ==",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": "a", "argsrepr": "('\0',)"},
        "properties": {
            "correlation_id": "a",
            "delivery_mode": 2,
            "delivery_info": {"exchange": exchange, "routing_key": routing_key},
            "priority": priority,
            "body_encoding": "base64",
            "delivery_tag": "t",
            **properties,
        },
    }


def test_both_directions():
    """The message that is read has all that the broker gets."""
    key, payload = make(message("orders", "eu.new", 6, expiration="5000"))
    whole = read(payload)
    assert whole.destination == Destination("orders", "eu.new", 6)
    assert key == "orders\x1feu.new\x1f6"
    found = whole.open()
    assert found.body == b"[[7], {}, {}]"
    assert (found.content_type, found.content_encoding) == ("application/json", "utf-8")
    assert found.headers == {"id": "a", "argsrepr": "('\0',)"}
    assert found.properties == {"correlation_id": "a", "delivery_mode": 2, "expiration": "5000"}


def test_the_payload_is_what_redis_holds():
    """The payload is kombu's own JSON of the message, in ASCII, so any database can keep it."""
    whole = message()
    key, payload = make(whole)
    assert payload == kombu_json.dumps(whole)
    assert payload.isascii()
    assert "\0" not in payload
    assert key == "\x1flow\x1f0"


@pytest.mark.parametrize(
    ("given", "priority"), [("3", 3), (None, 0), ("high", 0), (9, 9), (-1, -1)]
)
def test_priorities(given, priority):
    """A priority that is not a number counts as 0, as kombu's transports read it."""
    key, payload = make(message(priority=given))
    assert key == f"\x1flow\x1f{priority}"
    assert read(payload).destination.priority == priority


@pytest.mark.parametrize("name", ["exchange", "routing_key"])
def test_names_that_cannot_be_kept(name):
    """A name with the separator is refused."""
    with pytest.raises(MessageFormatError, match="U\\+001F"):
        make(message(**{name: "a\x1fb"}))


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "[]",
        "1",
        "{}",
        json.dumps({**message(), "body": 1, "secret": 1}),
        json.dumps({**message(body_encoding=None), "body": 1}),
        json.dumps({**message(), "headers": None}),
        json.dumps({**message(), "properties": None}),
    ],
)
def test_other_payloads(payload):
    """What isn't a message is said to be none, and isn't shown."""
    with pytest.raises(MessageFormatError, match="neither a message of Celery's") as caught:
        read(payload)
    assert "secret" not in str(caught.value)


def test_a_body_that_is_no_base64():
    """An app may have a transport option that leaves the body as it is."""
    _, payload = make({**message(body_encoding="utf-8"), "body": "[[7]]"})
    assert read(payload).open().body == "[[7]]"


def test_names_in_the_log():
    """Each outbox has its own channel, and each app its own subscription."""
    assert channel_of("default") == "pgnotifier:celery:default"
    assert subscription_of("shop") == "outbox:celery:shop"


def test_the_relay_is_listed():
    """`celery pgnotifier --list` shows the relay, how long entries may wait, and no task."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(pgnotifier_dsn="host=nowhere.invalid", pgnotifier_outbox_max_age=300)
    notifier = CeleryNotifier(app, autorun=False)
    assert notifier.outbox.subscription == "outbox:celery:shop"
    (row,) = json.loads(show_json(app, [notifier]))
    assert (row["channel"], row["id"]) == ("pgnotifier:celery:default", "outbox:celery:shop")
    assert (row["task"], row["path"]) == ("as enqueued", "relayed")
    assert row["max_age"] == "0:05:00"
    assert "max_age=0:05:00" in show_table(app, [notifier])
