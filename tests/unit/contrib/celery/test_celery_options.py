"""Publish options: what is refused at once, and what reaches the message."""

from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery
from kombu import Exchange, Queue

from pgnotifier import ArgumentTypeError, ConfigurationError, UnknownOptionError
from pgnotifier.contrib.celery.options import check_options

SIGNATURE = Celery("x", set_as_current=False).signature("x.link")


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"qeue": "x"}, "did you mean 'queue'"),
        ({"count_down": 1}, "did you mean 'countdown'"),
        ({"expire": 1}, "did you mean 'expires'"),
        ({"frobnicate": 1}, "there are compression, countdown"),
        ({"task_id": "x"}, "each task needs a new id"),
        ({"retry": True}, "the listener retries by itself"),
        ({"args": ()}, "come from the notification"),
    ],
)
def test_unknown_options_are_refused(options, near):
    """An option that Celery doesn't have, or that can't be set here, is refused with a hint."""
    with pytest.raises(UnknownOptionError, match=near) as caught:
        check_options("resize", options)
    assert "'resize'" in str(caught.value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"serializer": "jsno"}, ConfigurationError),
        ({"serializer": "raw"}, ConfigurationError),
        ({"serializer": 1}, ArgumentTypeError),
        ({"compression": "zzip"}, ConfigurationError),
        ({"countdown": -1}, ConfigurationError),
        ({"countdown": float("nan")}, ConfigurationError),
        ({"countdown": 1e18}, ConfigurationError),
        ({"countdown": "5"}, ArgumentTypeError),
        ({"countdown": True}, ArgumentTypeError),
        ({"countdown": 1, "eta": datetime.now(UTC)}, ConfigurationError),
        ({"eta": 5}, ArgumentTypeError),
        ({"eta": "tomorrow"}, ConfigurationError),
        ({"expires": "soon"}, ConfigurationError),
        ({"expires": timedelta(1)}, ArgumentTypeError),
        ({"time_limit": 0}, ConfigurationError),
        ({"time_limit": 1, "soft_time_limit": 2}, ConfigurationError),
        ({"priority": 256}, ConfigurationError),
        ({"priority": "high"}, ArgumentTypeError),
        ({"queue": ""}, ConfigurationError),
        ({"queue": 5}, ArgumentTypeError),
        ({"exchange": 5}, ArgumentTypeError),
        ({"headers": ["a"]}, ArgumentTypeError),
        ({"headers": {1: 2}}, ArgumentTypeError),
        ({"ignore_result": 0}, ArgumentTypeError),
        ({"delivery_mode": 3}, ConfigurationError),
        ({"link": print}, ArgumentTypeError),
        ({"link_error": [SIGNATURE, "x"]}, ArgumentTypeError),
    ],
)
def test_values_that_cannot_work_are_refused(options, error):
    """An invalid value is refused when subscribing; the error names the id, option and value."""
    with pytest.raises(error) as caught:
        check_options("resize", options)
    name, value = next(iter(options.items()))
    assert "'resize'" in str(caught.value)
    assert name in str(caught.value)
    if len(options) == 1:
        assert repr(value)[:60] in str(caught.value)


def test_good_values_pass():
    """Valid options are passed on as they are, except for None, which means the default."""
    options = {
        "queue": Queue("x"),
        "exchange": Exchange("x"),
        "routing_key": "x.y",
        "priority": 9,
        "expires": datetime.now(UTC),
        "eta": "2030-01-01T00:00:00+00:00",
        "serializer": "json",
        "compression": "gzip",
        "headers": {"origin": "x"},
        "time_limit": 10,
        "soft_time_limit": 10,
        "ignore_result": False,
        "shadow": "x",
        "link": SIGNATURE,
        "link_error": [SIGNATURE],
        "delivery_mode": "transient",
    }
    assert check_options("a", {**options, "countdown": None}) == options


def test_options_reach_the_message(desk):
    """Each subscription's tasks are published with its options."""
    link = desk.app.signature("x.link")
    one = desk.subscribe(
        print,
        queue="second",
        priority=7,
        countdown=60,
        expires=3600,
        time_limit=20,
        soft_time_limit=10,
        shadow="other",
        headers={"origin": "pg"},
        compression="gzip",
        serializer="msgspec",
        ignore_result=False,
        link=link,
    )
    other = desk.subscribe(print, id="other")
    desk.dispatch((one, "1"), (other, "1"))
    (message,) = desk.messages("second")
    headers = message.headers
    assert message.properties["priority"] == 7
    assert message.content_type == "application/x-msgspec"
    assert headers["compression"] == "application/x-gzip"
    now = datetime.now(UTC)
    assert (
        timedelta(seconds=30) < datetime.fromisoformat(headers["eta"]) - now < timedelta(seconds=61)
    )
    assert datetime.fromisoformat(headers["expires"]) - now < timedelta(seconds=3601)
    assert headers["timelimit"] == [20, 10]
    assert headers["shadow"] == "other"
    assert headers["origin"] == "pg"
    assert headers["ignore_result"] is False
    assert message.payload[2]["callbacks"][0]["task"] == "x.link"
    (message,) = desk.messages()
    assert message.headers["eta"] is None
    assert message.headers["ignore_result"] is True


def test_exchange_and_routing_key_reach_the_broker(desk):
    """A task that is published to a user's own exchange arrives in the queue bound to it."""
    queue = Queue("images", Exchange("media", "topic"), routing_key="image.*")
    with desk.app.connection_for_write() as connection:
        queue(connection.default_channel).declare()
        binding = desk.subscribe(print, exchange="media", routing_key="image.new")
        desk.deliver(binding, "1")
    assert desk.arguments("images") == [["a", "ch", 1, 7]]
