"""Attachments: which dispatchers a notifier uses, and which it no longer uses."""

import gc
import weakref

import pytest

from pgnotifier import ArgumentTypeError, InlineDispatcher
from pgnotifier._notifier.attachments import Attachments


class Recorder(InlineDispatcher):
    """A dispatcher that records its calls."""

    def __init__(self):
        self.calls = []

    def attach(self, notifier):
        """Record the notifier."""
        self.calls.append(notifier)

    def open(self):
        """Record the call."""
        self.calls.append("open")

    def forget_in_child(self):
        """Record the call."""
        self.calls.append("forget")


@pytest.fixture
def default():
    """Return the notifier's default dispatcher."""
    return Recorder()


@pytest.fixture
def attachments(default):
    """Return the attachments of a notifier, which is a str here, with its default dispatcher."""
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
    """A dispatcher that can't be opened isn't in use, so that the next attempt opens it."""
    other = Recorder()
    other.open = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        attachments.attach(other, lambda: True)
    assert other not in attachments.in_use


def test_no_dispatcher(attachments):
    """Anything but an instance of a dispatcher is refused by name."""
    with pytest.raises(ArgumentTypeError, match=r"pgnotifier\.Dispatcher, not <class"):
        attachments.attach(Recorder, lambda: False)


def test_the_default_one_stays(attachments, default):
    """`remove` removes and returns other dispatchers, but not the default one."""
    other = Recorder()
    attachments.attach(other, lambda: False)
    assert attachments.remove({default, other}) == {other}
    assert list(attachments) == [default]


def test_added_while_others_are_opened(attachments, default):
    """A dispatcher may be attached while others are being opened."""
    default.open = lambda: attachments.attach(Recorder(), lambda: False)
    attachments.open_all()
    assert len(attachments.in_use) == 2


def test_a_forked_child(attachments, default):
    """In a forked child, removed dispatchers that still exist forget their threads as well."""
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
