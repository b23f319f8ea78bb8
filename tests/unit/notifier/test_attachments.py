"""Attachments: which dispatchers a notifier uses, and which it has forgotten."""

import gc
import weakref

import pytest

from pgnotifier import ArgumentTypeError, InlineDispatcher
from pgnotifier._notifier.attachments import Attachments


class Recorder(InlineDispatcher):
    """A dispatcher that keeps a list of its calls."""

    def __init__(self):
        self.calls = []

    def attach(self, notifier):
        """Note the notifier."""
        self.calls.append(notifier)

    def open(self):
        """Note the call."""
        self.calls.append("open")

    def forget_in_child(self):
        """Note the call."""
        self.calls.append("forget")


@pytest.fixture
def default():
    """Return the notifier's own dispatcher."""
    return Recorder()


@pytest.fixture
def attachments(default):
    """Return the attachments of a notifier, here a str, with its own dispatcher attached."""
    made = Attachments("notifier", default)
    made.attach(default, lambda: False)
    return made


@pytest.mark.parametrize(("is_running", "calls"), [(False, []), (True, ["open"])])
def test_attached_once(attachments, is_running, calls):
    """A dispatcher is attached once, and opened if the notifier runs."""
    other = Recorder()
    for _ in range(2):
        attachments.attach(other, lambda: is_running)
    assert other.calls == ["notifier", *calls]


def test_one_that_cannot_be_opened(attachments):
    """It isn't in use, and the next subscription tries again."""
    other = Recorder()
    other.open = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        attachments.attach(other, lambda: True)
    assert other not in attachments.in_use


def test_no_dispatcher(attachments):
    """What isn't an instance of a dispatcher is refused by name."""
    with pytest.raises(ArgumentTypeError, match=r"pgnotifier\.Dispatcher, not <class"):
        attachments.attach(Recorder, lambda: False)


def test_the_default_one_stays(attachments, default):
    """Others go when they are unused, and only these are returned."""
    other = Recorder()
    attachments.attach(other, lambda: False)
    assert attachments.remove({default, other}) == {other}
    assert list(attachments) == [default]


def test_added_while_others_are_opened(attachments, default):
    """Dispatchers may be attached amid opening, by another thread or by a dispatcher."""
    default.open = lambda: attachments.attach(Recorder(), lambda: False)
    attachments.open_all()
    assert len(attachments.in_use) == 2


def test_a_forked_child(attachments, default):
    """Removed dispatchers forget their threads as well, unless they are gone."""
    removed, gone = Recorder(), Recorder()
    for one in (removed, gone):
        attachments.attach(one, lambda: False)
        attachments.remove({one})
    is_gone, one = weakref.ref(gone), None
    del gone, one
    gc.collect()
    assert is_gone() is None
    attachments.forget_in_child()
    assert default.calls[-1] == removed.calls[-1] == "forget"
