"""What a relay reads of an outbox's entries."""

from datetime import UTC, datetime
from decimal import Decimal
from math import inf

import pytest

from pgnotifier.contrib.celery import MessageFormatError
from pgnotifier.contrib.celery.outbox_messages import Destination
from pgnotifier.contrib.celery.relay_messages import Message, Request, read

FINISHED = (
    '{"body": "W10=", "content-encoding": "utf-8", "content-type": "application/json",'
    ' "headers": {"task": "shop.invoice", "id": "1"}, "properties": {"correlation_id": "1",'
    ' "delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "low"},'
    ' "priority": %s, "body_encoding": "base64"}}'
)


@pytest.mark.parametrize(("given", "priority"), [("3", 3), ("null", 0), ('"high"', 0)])
def test_finished_messages(given, priority):
    """Of a finished message, the name of the task is read, and where it goes."""
    text = FINISHED % given
    found = read(text)
    assert isinstance(found, Message)
    assert (found.text, found.task) == (text, "shop.invoice")
    assert found.destination == Destination("", "low", priority)
    assert found.open().body == b"[]"
    assert dict(found.open().properties) == {"correlation_id": "1"}


@pytest.mark.parametrize(
    ("given", "value"),
    [('"\\ud800"', "\ud800"), ('"a\\udcff!"', "a\udcff!"), ("Infinity", inf)],
)
def test_what_only_python_reads(given, value):
    """Messages may have lone surrogates, as names of files do, and numbers that JSON doesn't."""
    text = FINISHED.replace('"id": "1"', f'"id": "1", "kwargsrepr": {given}') % 3
    found = read(text)
    assert isinstance(found, Message)
    assert (found.text, found.task) == (text, "shop.invoice")
    assert found.destination == Destination("", "low", 3)
    assert found.open().headers["kwargsrepr"] == value


def test_requests():
    """What SQL asks for has values of Python, and its numbers keep their digits."""
    found = read(
        '{"task": "shop.invoice", "id": "1", "args": [12345678901234567.89, 1.5, 1e400],'
        ' "kwargs": {"big": 123456789012345678901234567890},'
        ' "eta": "2026-01-02T03:04:05.000006+00:00"}'
    )
    assert isinstance(found, Request)
    assert found.args == [Decimal("12345678901234567.89"), 1.5, Decimal("1e400")]
    assert found.kwargs == {"big": 123456789012345678901234567890}
    assert found.eta == datetime(2026, 1, 2, 3, 4, 5, 6, UTC)
    assert (found.queue, found.expires, found.priority, found.headers) == (None,) * 4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "truncated"),
        ("[1]", "Expected `object`"),
        ('{"body": "x"}', "missing required field"),
        ('{"task": "shop.invoice", "que": "low"}', "unknown field `que`"),
        ('{"task": "shop.invoice", "args": "secret"}', "Expected `array`, got `str`"),
        ('{"task": 7}', "Expected `str`, got `int`"),
        ('{"task": "shop.invoice", "args": ' + "[" * 500 + "]" * 500 + "}", "200 levels deep"),
        (
            '{"task": "shop.invoice", "args": ' + "[" * 10**6 + "]" * 10**6 + "}",
            "recursion|overflow",
        ),
        ('{"task": "shop.invoice", "args": [' + "9" * 5000 + "]}", "over 4,300 digits"),
        ('{"task": "shop.invoice", "args": ["\udcff"]}', "utf-8"),
    ],
    ids=lambda text: text[:40],
)
def test_neither(text, why):
    """What is neither says why, and never quotes a value."""
    with pytest.raises(MessageFormatError, match=why) as caught:
        read(text)
    assert "secret" not in str(caught.value)
