"""Strays: which notifications are plain, and what is listened to for that."""

import logging

import pytest

from pgnotifier._durable.strays import Strays

PUBLISHED = "pgnotifier_published"


class Session:
    """Records what is listened to."""

    def __init__(self):
        self.listening = set()

    def listen(self, verb, channels):
        """LISTEN or UNLISTEN."""
        change = self.listening.update if verb == "LISTEN" else self.listening.difference_update
        change(channels)


@pytest.fixture
def session():
    """Return a session."""
    return Session()


@pytest.fixture
def strays(session):
    """Return what finds plain notifications on two channels."""
    strays = Strays({})
    strays.watch(["a", "b"], session.listen)
    return strays


@pytest.fixture
def warned(caplog):
    """Return a function that returns the channels that were warned of."""
    return lambda: [one.channel for one in caplog.records if one.levelno == logging.WARNING]


def test_what_is_listened_to(session):
    """Channels are listened to while they are read, with what announces publications."""
    strays = Strays({})
    strays.watch([], session.listen)
    assert session.listening == set()
    strays.watch(["a", "b", "a", "pgnotifier_wake", PUBLISHED], session.listen)
    assert session.listening == {"a", "b", PUBLISHED}
    strays.watch(["b", "c"], session.listen)
    assert session.listening == {"b", "c", PUBLISHED}
    strays.watch([], session.listen)
    assert session.listening == set()


def test_a_new_session(strays):
    """On a new session, everything is listened to again."""
    again = Session()
    strays.begin()
    strays.watch(["a", "b"], again.listen)
    assert again.listening == {"a", "b", PUBLISHED}


def test_one_warning_for_each_channel(strays, session, warned):
    """Each channel is warned of once, and isn't listened to after that."""
    for _ in range(3):
        strays.note("a", "1", 7)
    assert strays.warn()
    assert not strays.warn()
    strays.note("a", "1", 7)
    strays.watch(["a", "b"], session.listen)
    assert session.listening == {"b", PUBLISHED}
    strays.note("a", "2", 7)
    strays.note("b", "2", 7)
    strays.watch(["a", "b"], session.listen)
    assert session.listening == set()
    assert warned() == ["a", "b"]


def test_sources_share_what_they_have_warned_of(warned):
    """Of several sources that read a channel, one warns."""
    known = {}
    both = [Strays(known) for _ in range(2)]
    for one in both:
        one.watch(["a"], lambda *_: None)
        one.note("a", "1", 7)
    for one in both:
        one.warn()
    assert warned() == ["a"]


def test_what_is_published(strays, warned):
    """What follows its announcement, from the same session, is published."""
    for pid in (7, 8, 7):
        strays.note(PUBLISHED, "a", pid)
        strays.note("a", "1", pid)
        strays.note("a", "2", pid)
        strays.note(PUBLISHED, "b", pid)
        strays.note("b", "1", pid)
        strays.note("a", "3", pid)
    assert not strays.warn()
    assert warned() == []


@pytest.mark.parametrize(
    "arriving",
    [
        [(PUBLISHED, "a", 7), ("a", "1", 7), ("a", "1", 8)],
        [(PUBLISHED, "a", 7), ("a", "1", 7), ("b", "1", 8), (PUBLISHED, "b", 9), ("a", "1", 7)],
        [(PUBLISHED, "b", 7), ("a", "1", 7)],
        [(PUBLISHED, "others", 7), ("a", "1", 7)],
        [("a", "1", 7), (PUBLISHED, "a", 7)],
    ],
)
def test_what_is_a_stray(strays, warned, arriving):
    """What was announced for another channel, by another session, or later, is a stray."""
    for one in arriving:
        strays.note(*one)
    strays.warn()
    assert warned()[0] == ("b" if ("b", "1", 8) in arriving else "a")


def test_arriving_while_listening_begins(warned):
    """What arrives while LISTEN is under way is announced, too."""
    strays = Strays({})

    def listen(*_):
        strays.note(PUBLISHED, "a", 7)
        strays.note("a", "1", 7)

    strays.watch(["a"], listen)
    strays.note("a", "2", 7)
    strays.warn()
    assert warned() == []


def test_announcements_of_anybody_take_no_memory(strays):
    """Names that nobody reads aren't kept, however many are announced."""
    for number in range(1000):
        strays.note(PUBLISHED, f"other {number}", 7)
    assert strays._published == set()
