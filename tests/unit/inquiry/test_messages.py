"""Questions and answers: they arrive as they were sent, and whatever else arrives is ignored."""

import base64
import math
import zlib
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgnotifier._inquiry.messages import (
    MOST_BYTES,
    MOST_PENDING,
    QUESTION_BYTES,
    Answer,
    Assembler,
    Inquiry,
    Order,
    read_question,
)
from pgnotifier._inquiry.report import (
    MOST_CHANNELS,
    ChannelReport,
    ListenerReport,
    SubscriptionReport,
)
from pgnotifier.payload import MAX_PAYLOAD_BYTES

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "0123456789abcdef"


def make_report(channels=1, subscriptions=0, **changes):
    """Return the report of a listener with so many channels and subscriptions."""
    given = {
        "id": ID,
        "host": "shop-1",
        "pid": 1,
        "backend_pid": 2,
        "version": "1",
        "python": "3",
        "kind": "celery",
        "app": "shop",
        "command": "celery",
        "standby": None,
        "started_at": NOW,
        "uptime": 10.0,
        "measured_at": NOW,
        "state": "listening",
        "since": NOW,
        "why": None,
        "connection": "host=db",
        "received": 5,
        "errors": 0,
        "dropped": 0,
        "reconnects": 0,
        "latency": None,
        "queue_usage": None,
        "gaps": 0,
        "last_gaps": (),
        "channel_count": channels,
        "channels": tuple(
            ChannelReport(f"c{n}", n, muted=False, durable=False) for n in range(channels)
        ),
        "subscription_count": subscriptions,
        "subscriptions": tuple(
            SubscriptionReport(
                f"s{n}", f"c{n % 200}", f"shop.t{n}", "q", "D", muted=False, durable=False
            )
            for n in range(subscriptions)
        ),
        "dispatchers": (),
        "durable": (),
        "log": None,
    }
    return ListenerReport(**{**given, **changes})


def test_a_question_arrives():
    """A question with an order arrives as it was sent, also with names that aren't ASCII."""
    asked = Inquiry("1", "170.5", Order(ID, "mute", "bestellungen-ä\x1b", "ü"))
    text = asked.encode()
    assert text.isascii()
    assert read_question(text.encode()) == asked


@pytest.mark.parametrize(
    "question",
    [
        b"x",
        b"{}",
        base64.b64encode(b"[]"),
        base64.b64encode(b'{"id": 1}'),
        base64.b64encode(b'{"order": {"listener": "a", "verb": "stop", "channel": "b"}}'),
        base64.b64encode(b'{"id": "' + b"x" * QUESTION_BYTES + b'"}'),
        base64.b64encode(b'{"id": ' + b"[" * 1_450),
        base64.b64encode(b'{"session": "\\u0000"}'),
        base64.b64encode(b'{"order": {"listener": "a", "verb": "mute", "channel": "\\u0000"}}'),
    ],
)
def test_questions_that_are_ignored(question):
    """What isn't a question, names another verb, is too long, deep, or has a NUL, is ignored."""
    assert read_question(question) is None


def test_an_answer_arrives_in_parts():
    """200 channels and 1,000 subscriptions take a few notifications, in any order."""
    answer = Answer(make_report(200, 1000), {"1": None, "2": "no"})
    parts = answer.encode(7)
    assert 1 < len(parts) < 20
    assert max(map(len, parts)) <= MAX_PAYLOAD_BYTES
    assembler = Assembler()
    *first, last = reversed(parts)
    assert [assembler.take(part.encode()) for part in first] == [None] * len(first)
    assert assembler.take(last.encode()) == answer


def test_answers_that_mix():
    """The parts of several answers may mix."""
    answers = [Answer(make_report(2000, id=f"{n:016x}")) for n in range(3)]
    assembler = Assembler()
    parts = [
        part for rank in zip(*(one.encode(1) for one in answers), strict=True) for part in rank
    ]
    taken = [assembler.take(part.encode()) for part in parts]
    assert [one for one in taken if one] == answers


@given(st.binary(max_size=200))
def test_answers_that_are_ignored(data):
    """Whatever else arrives is ignored."""
    assert Assembler().take(data) is None
    assert Assembler().take(f"{ID} 1 1/1 ".encode() + base64.b64encode(data)) is None


def forge(report, name=ID):
    """Return an answer that somebody has made by hand."""
    packed = base64.b64encode(zlib.compress(msgspec.json.encode({"report": report})))
    return f"{name} 1 1/1 ".encode() + packed


def test_forged_answers_are_ignored():
    """An answer under another name, with another type or with a naive time is ignored."""
    whole = msgspec.to_builtins(make_report())
    assert Assembler().take(forge(whole)) is not None
    assert Assembler().take(forge(whole, "f" * 16)) is None
    for change in ({"pid": "1"}, {"state": "odd"}, {"since": "2026-01-01T00:00:00"}):
        assert Assembler().take(forge({**whole, **change})) is None


@pytest.mark.parametrize(
    "change",
    [
        {"received": 1 << 64},
        {"since": "0001-01-01T00:00:00+12:00"},
        {"since": "9999-12-31T23:59:59-12:00"},
        {"host": "\0"},
        {"host": "x" * 100_000},
        {"channels": [{"name": "a", "received": 1 << 64, "muted": False, "durable": False}]},
        {
            "channels": [
                {"name": "a", "received": 1, "muted": False, "durable": False, "rate": 1e308}
            ]
        },
        {
            "channels": [{"name": "a", "received": 1, "muted": False, "durable": False}]
            * (MOST_CHANNELS + 1)
        },
    ],
    ids=lambda change: f"{change}"[:40],
)
def test_forged_answers_that_nobody_can_show(change):
    """An answer with figures, times or texts that can't be calculated with or shown is ignored."""
    assert Assembler().take(forge({**msgspec.to_builtins(make_report()), **change})) is None


def test_a_forged_answer_that_is_nested_deeply():
    """An answer that is nested deeper than Python's stack is ignored."""
    packed = base64.b64encode(zlib.compress(b'{"report": ' + b"[" * 100_000))
    assert Assembler().take(f"{ID} 1 1/1 ".encode() + packed) is None


def test_a_bomb_is_ignored():
    """An answer that is huge once it is unpacked isn't unpacked."""
    bomb = base64.b64encode(zlib.compress(b" " * (MOST_BYTES + 1)))
    parts = [bomb[at : at + 7000] for at in range(0, len(bomb), 7000)]
    assembler = Assembler()
    for n, part in enumerate(parts, 1):
        assert assembler.take(f"{ID} 1 {n}/{len(parts)} ".encode() + part) is None


def test_incomplete_answers_take_little_memory():
    """Only some parts of answers that never become complete are kept."""
    assembler = Assembler()
    for n in range(MOST_PENDING + 100):
        assembler.take(f"{n:016x} 1 1/2 abcd".encode())
    assert len(assembler._parts) <= MOST_PENDING


def test_rates():
    """Two reports give rates; a listener that has started again in between has none below 0."""
    before = make_report(2)
    later = make_report(2, uptime=12.0, received=25)
    assert later.compare(None).rate is None
    assert later.compare(before).rate == 10
    assert [one.rate for one in later.compare(before).channels] == [0, 0]
    assert make_report(uptime=1.0).compare(before).rate is None
    huge = make_report(uptime=math.nextafter(before.uptime, math.inf), received=1 << 62)
    assert huge.compare(before).rate is None
