"""Prefork workers don't listen again in their processes, or break the parent's listener."""

import signal

from celery import Celery

SOURCE = """
notifier = Notifier(os.environ["DSN"], dispatcher=CeleryDispatcher(app))

def callback(*args):
    write("tasks", os.getpid(), os.getppid(), *args[:3])

notifier.subscribe("id", "tasks", callback)
"""

LISTENING = """
# A notifier that listens in whatever process imports this, the worker's own one included.
inline = Notifier(os.environ["DSN"], daemon=True)
inline.subscribe("here", "inline", lambda *args: write("inline", os.getpid(), args[2]))
"""


def test_tasks_run_in_the_pool_without_a_session(open_shop):
    """Neither a prefork worker nor the processes of its pool connect to PostgreSQL."""
    shop = open_shop(SOURCE)
    worker = shop.worker("-P", "prefork", "-c", "2")
    assert shop.sessions() == 0
    shop.listener()
    shop.notify(*(("tasks", f"({number},)") for number in range(20)))
    written = shop.wait_written("tasks", 20)
    assert sorted(payload for *_, payload in written) == [(number,) for number in range(20)]
    assert {parent for _, parent, *_ in written} == {worker.process.pid}
    assert shop.sessions() == 1
    for running in shop.running:
        running.signal(signal.SIGTERM)
    assert [running.wait() for running in shop.running] == [0, 0]


def test_a_listener_in_the_workers_parent_survives_its_forks(open_shop):
    """A notifier that was started on import listens in the parent alone, however often it forks."""
    shop = open_shop(SOURCE + LISTENING)
    worker = shop.worker("-P", "prefork", "-c", "2", "--max-tasks-per-child", "1")
    assert shop.sessions() == 1
    for number in range(3):
        shop.notify(("inline", str(number)), ("tasks", str(number)))
        assert shop.wait_written("inline", number + 1)[-1] == (worker.process.pid, number)
        enqueue(shop, number)  # runs in a process that then ends; another one is forked
        shop.wait_written("tasks", number + 1)
    assert len({pid for pid, *_ in shop.written("tasks")}) == 3
    assert [payload for _, payload in shop.written("inline")] == list(range(3))
    assert shop.sessions() == 1
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


def enqueue(shop, number):
    """Enqueue a task as the listener does."""
    with Celery(broker=shop.env["BROKER"], set_as_current=False) as app:
        app.send_task("pgnotifier.id", ["id", "tasks", number, 1], queue=shop.queue)
