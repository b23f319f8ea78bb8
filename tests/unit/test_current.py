"""The entry for which a callback is called is there during the call, and not after it."""

from contextvars import copy_context
from datetime import UTC, datetime

import pytest

from pgnotifier.current import call_for, called_entry, called_for, forget
from pgnotifier.notification import Entry, Notification

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENTRY = Entry("orders", {"n": 1}, '{"n": 1}', 0, NOW, id=3)


def test_during_the_call():
    """The callback gets its arguments, and finds the entry; afterwards there is none."""
    seen = []
    call_for(ENTRY, lambda *given: seen.append((given, called_entry())), "a")
    assert seen == [(("a", "orders", {"n": 1}, 0), ENTRY)]
    assert called_entry() is None


def test_after_an_exception():
    """A callback that raises leaves no entry."""
    with pytest.raises(ZeroDivisionError):
        call_for(ENTRY, lambda *_: 1 / 0, "a")
    with pytest.raises(ZeroDivisionError), called_for(ENTRY):
        1 / 0  # noqa: B018
    assert called_entry() is None


def test_blocks_in_blocks():
    """A block for another notification hides the entry, and the outer block has it again."""
    with called_for(ENTRY):
        with called_for(Notification("orders", 1, "1", 5, NOW)):
            assert called_entry() is None
        assert called_entry() is ENTRY


def test_forgetting_what_was_inherited():
    """A thread that has inherited its starter's context begins without an entry."""

    def run():
        forget()
        return called_entry()

    with called_for(ENTRY):
        assert copy_context().run(run) is None
        assert called_entry() is ENTRY
