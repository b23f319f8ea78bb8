"""Readiness: whether queues can be reached, even if dispatchers misbehave."""

import threading

import pytest

from pgnotifier import InlineDispatcher
from pgnotifier._delivery.readiness import Probes


class Probed(InlineDispatcher):
    """A dispatcher with a queue that gives the configured answer."""

    def __init__(self, answer=True):
        super().__init__()
        self.answer = answer

    def is_reachable(self):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def test_answers():
    """Only queues that can't be reached are reported as problems."""
    ours = [InlineDispatcher(), Probed(), Probed(answer=False)]
    assert Probes().readiness_problems(ours) == ["Probed can't reach its queue"]
    assert Probes().readiness_problems([]) == []


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit("secret")])
def test_what_raises(error, caplog):
    """An exception is a problem and is logged; the report doesn't contain its text."""
    trouble = Probes().readiness_problems([Probed(error)])
    assert trouble == [f"Probed can't probe its queue: {type(error).__name__}"]
    assert caplog.records[-1].exc_info[1] is error


def test_no_thread_is_left(monkeypatch):
    """If a thread can't be started, a queue is reported as a problem until one can be."""
    probes, dispatcher = Probes(), Probed()

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert probes.readiness_problems([dispatcher]) == [
            "Probed can't probe its queue: no thread can be started: can't start new thread"
        ]
    assert probes.readiness_problems([dispatcher]) == []
