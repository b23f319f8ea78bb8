"""The listener asks the workers whether they know the tasks that it will enqueue."""

import signal

import pytest

SHOP = """
from pgnotifier.contrib.celery import CeleryNotifier

app.conf.pgnotifier_dsn = os.environ["DSN"]
notifier = CeleryNotifier(app)

@app.task(name="known")
def known(*args): ...

notifier.subscribe("signature", "ch", known)
if os.environ.get("LISTENS"):
    notifier.subscribe("resize", "ch", print)
    notifier.subscribe("elsewhere", "ch", app.signature("other.program"))
    notifier.subscribe("chain", "ch", chain(known.s(), app.signature("third.program")))
"""

UNKNOWN = "no running worker knows the tasks 'other.program', 'pgnotifier.resize', 'third.program'"


@pytest.mark.parametrize("listening", ["pgnotifier", "worker"])
def test_tasks_that_no_worker_knows(open_shop, listening):
    """A listener warns once of tasks that no worker knows; one in a worker knows its own tasks."""
    shop = open_shop(SHOP)
    shop.worker()
    if listening == "worker":
        listener = shop.worker("--pgnotifier", "-P", "solo", LISTENS="1")
        # It asks the other worker; neither of them knows these tasks.
        listener.wait_for("no running worker knows the tasks 'other.program', 'third.program'")
    else:
        listener = shop.listener(LISTENS="1")
        listener.wait_for(UNKNOWN)
        assert "Make the workers import the modules that subscribe" in listener.log
    assert "listening 1 channel" in listener.log
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0
    assert listener.log.count("no running worker knows") == 1
    assert "Traceback" not in listener.log


def test_without_workers_and_without_a_broker(open_shop):
    """Without workers or a broker the listener starts, and logs this without a warning."""
    shop = open_shop(SHOP)
    listener = shop.listener(LISTENS="1")
    listener.wait_for("no worker has answered yet")
    assert "WARNING" not in listener.log
    away = shop.listener("-l", "DEBUG", LISTENS="1", BROKER="redis://127.0.0.1:1/0")
    away.wait_for("can't ask the workers")
    for running in (listener, away):
        running.signal(signal.SIGTERM)
        assert running.wait(10) == 0
