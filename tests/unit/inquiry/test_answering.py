"""Answering goes on after whatever has kept it from answering."""

import threading

from pgnotifier._connection.parameters import Parameters
from pgnotifier._inquiry.answering import MOST_NOTED, Answering


def test_answers_once_a_thread_can_be_started(eventually, monkeypatch):
    """Questions that came while no thread could be started don't keep later ones from a thread."""
    described = []
    answering = Answering(Parameters("host=/nonexistent"), described.append, None)

    def fail(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        for _ in range(MOST_NOTED + 1):
            answering.note(b"", 1)
    assert not described
    answering.note(b"", 1)
    eventually(lambda: described == [answering.id])
    answering.close(60)
