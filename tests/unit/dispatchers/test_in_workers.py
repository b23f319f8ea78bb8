"""Finding the entry of the log that the current Celery task was made from."""

import pytest
from celery import Celery

from pgnotifier import current_entry
from pgnotifier.current import called_for
from pgnotifier.dispatchers.carrying import wrap
from pgnotifier.notification import Entry, Notification

ORIGIN = {
    "channel": "orders",
    "pid": 0,
    "received_at": "2026-03-01T12:00:01+00:00",
    "id": 3,
    "attempt": 2,
    "key": "k",
    "published_at": "2026-03-01T12:00:00+00:00",
}


@pytest.fixture
def app():
    """Return an app."""
    return Celery("found", broker="memory://", set_as_current=False)


@pytest.fixture
def work(app):
    """Return a task that returns what it finds."""

    @app.task(name="work", shared=False)
    def work(*given):
        return current_entry()

    return work


def found(task, *given, origin=ORIGIN):
    """Run a task in this process, and return its result."""
    return task.apply(given, headers={"pgnotifier": origin}).get()


def test_nowhere():
    """Outside of a callback there is no entry."""
    assert current_entry() is None


def test_in_a_task(work):
    """A task that gets the four arguments finds the entry with its payload."""
    entry = found(work, "a", "orders", {"n": 1}, 0)
    assert isinstance(entry, Entry)
    assert (entry.channel, entry.payload, entry.raw, entry.pid) == (
        "orders",
        {"n": 1},
        '{"n":1}',
        0,
    )
    assert (entry.id, entry.key, entry.attempt) == (3, "k", 2)
    assert entry.published_at.isoformat() == ORIGIN["published_at"]
    assert entry.received_at.isoformat() == ORIGIN["received_at"]
    assert current_entry() is None


def test_a_payload_as_text(work):
    """A payload that was sent as its text is decoded."""
    arrived = Notification("orders", (1, 2), "(1, 2)", 0, None)
    assert found(work, "a", "orders", wrap(arrived), 0).payload == (1, 2)


@pytest.mark.parametrize("given", [(), (1, 2), (1, 2, 3, 4), ("a", "orders", 3, 9)])
def test_arguments_of_its_own(work, given):
    """A task with arguments of its own finds the entry without a payload."""
    entry = found(work, *given)
    assert (entry.id, entry.payload) == (3, None)


@pytest.mark.parametrize(
    "origin", [None, "text", {}, {"channel": "orders", "pid": 5}, {"id": "3"}, {"id": True}]
)
def test_what_was_made_from_something_else(work, origin):
    """A task without the header, or with something else in it, has no entry."""
    assert found(work, "a", "orders", 1, 0, origin=origin) is None


def test_tasks_that_a_task_calls(app, work):
    """A task that is called as a function belongs to its caller; one that is applied doesn't."""

    @app.task(name="calling", shared=False)
    def calling(*given):
        return work(), work.apply().get()

    called, applied = found(calling, "a", "orders", 1, 0)
    assert called.id == 3
    assert applied is None


def test_callbacks_come_first(work):
    """A callback in this process that runs a task has its own entry there."""
    entry = Entry("other", 1, "1", 0, None, id=4)
    with called_for(entry):
        assert work.apply().get() is entry
