"""Task options of callbacks, on real workers."""

import signal

SHOP = """
from pgnotifier.contrib.celery import CeleryNotifier

app.conf.pgnotifier_dsn = os.environ["DSN"]
notifier = CeleryNotifier(app)
RETRY = {"autoretry_for": (OSError,), "retry_kwargs": {"countdown": 0.05}, "max_retries": 5}

@notifier.on("retried", id=("re", "tried"), task={**RETRY, "time_limit": 60, "acks_late": True})
def retried(id, channel, payload, pid):
    request = current_task.request
    write("retried", id, channel, payload, pid, request.retries, request.timelimit,
          request.headers["pgnotifier"]["channel"])
    if request.retries < 2:
        raise OSError("not yet")

@notifier.on("bound", id="bound", task={"bind": True, "max_retries": 1})
def bound(task, id, channel, payload, pid):
    write("bound", task.name, id, channel, payload, pid, task.request.retries)
    raise task.retry(countdown=0.05) if not task.request.retries else ValueError
"""


def test_retries(open_shop):
    """A task that fails is retried with exactly the arguments that it had before."""
    shop = open_shop(SHOP)
    shop.worker()
    listener = shop.listener()
    payloads = ["{1: (2, b'x')}", '{"a": [1.5, null]}', "{1, 2}", "text", "..."]
    values = [{1: (2, b"x")}, {"a": [1.5, None]}, {1, 2}, "text", ...]
    pid = shop.notify(*[("retried", text) for text in payloads], ("bound", "(1, 2)"))
    found = shop.wait_written("retried", 3 * len(payloads))
    for value in values:
        runs = sorted((run for run in found if run[2] == value), key=lambda run: run[4])
        assert [run[:4] for run in runs] == [(("re", "tried"), "retried", value, pid)] * 3
        assert [run[4] for run in runs] == [0, 1, 2]
        assert {tuple(run[5]) for run in runs} == {(60, None)}
        assert {run[6] for run in runs} == {"retried"}
    assert shop.wait_written("bound", 2) == [
        ("pgnotifier.bound", "bound", "bound", (1, 2), pid, tries) for tries in range(2)
    ]
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0
