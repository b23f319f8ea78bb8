"""Functions that are called on a thread of their own."""

import threading
from contextvars import ContextVar

import pytest

from pgnotifier._runtime.aside import NoThreadError, call_aside, is_without_thread

NAME = ContextVar("NAME", default="none")


def test_a_result():
    """The function is called on a daemon thread with the given name, in the caller's context."""

    def describe(more):
        thread = threading.current_thread()
        return thread.name, thread.daemon, NAME.get(), more

    token = NAME.set("ours")
    called = call_aside("aside", describe, "more")
    NAME.reset(token)
    assert called.result(20) == ("aside", True, "ours", "more")
    assert not is_without_thread(called)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), RuntimeError("no thread")])
def test_an_exception(error):
    """Whatever the function raises is the future's exception."""

    def fail():
        raise error

    called = call_aside("aside", fail)
    assert called.exception(20) is error
    assert not is_without_thread(called)


def test_no_thread(monkeypatch):
    """If no thread can be started, the function isn't called, and the exception says why."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        called = call_aside("aside", calls.append, 1)
    assert is_without_thread(called)
    with pytest.raises(NoThreadError, match="no thread can be started: can't start new thread"):
        called.result(0)
    assert calls == []
