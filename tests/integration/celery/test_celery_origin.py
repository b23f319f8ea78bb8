"""The headers that describe a task's notification, and tasks made of many notifications."""

from datetime import UTC, datetime

import pytest

pytestmark = pytest.mark.xdist_group("celery origin")  # all in one worker

SOURCE = """
notifier = Notifier(os.environ["DSN"], dispatcher=CeleryDispatcher(app))

def origin():
    return (current_task.request.headers or {}).get("pgnotifier")

@notifier.on("ch", id="callback", headers={"mine": "yes"})
def callback(id, channel, payload, pid):
    write("callback", payload, origin(), current_task.request.headers.get("mine"))

@app.task(name="own")
def own(*args):
    write("own", args[2], origin(), (current_task.request.headers or {}).get("mine"))
    return args[2]

@app.task(name="other")
def other(*args):
    write("other", args[2] if args else None)

notifier.subscribe("task", "ch", own)
notifier.subscribe("signature", "ch", own.s().set(headers={"mine": "sig"}))
notifier.subscribe("chain", "ch", chain(own.s(), other.si()))
notifier.subscribe("group", "ch", group(own.s(), own.s().set(headers={"mine": "group"})))
notifier.subscribe("chain with headers", "ch", chain(own.s().set(headers={"mine": "chain"})))

@notifier.on("many", id="batched", batch=(3, 60))
def batched(id, channel, payload, pid):
    write("batched", payload, origin()["count"])

@notifier.on("many", id="debounced", debounce=0.2, key=lambda payload: payload["id"])
def debounced(id, channel, payload, pid):
    write("debounced", payload, origin())

notifier.subscribe("batched task", "many", other.s(), batch=(2, 0.2), queue=os.environ["QUEUE"])
"""


@pytest.fixture(scope="module")
def shop(open_module_shop):
    """Return a shop with a worker and a listener."""
    shop = open_module_shop(SOURCE)
    shop.worker()
    shop.listener()
    return shop


def test_headers_show_the_origin(shop):
    """A task's headers have the notification's channel, pid and time, beside the task's own."""
    before = datetime.now(UTC)
    pid = shop.notify(*[("ch", f'{{"n": {number}}}') for number in range(5)])
    callbacks = shop.wait_written("callback", 5)
    owns = shop.wait_written("own", 5 * 6)
    for _, origin, mine in callbacks:
        assert (origin["channel"], origin["pid"], mine) == ("ch", pid, "yes")
        assert before <= datetime.fromisoformat(origin["received_at"]) <= datetime.now(UTC)
        assert set(origin) == {"channel", "pid", "received_at"}
    # A chain with headers of its own doesn't get the notification's.
    found = {(origin and origin["pid"], mine) for _, origin, mine in owns}
    assert found == {(pid, None), (pid, "sig"), (pid, "group"), (None, "chain")}


def lists(shop):
    """Return the lists that `other` was called with."""
    return [payload for (payload,) in shop.written("other") if payload is not None]


def test_batches_and_debounces_become_tasks(shop, eventually):
    """A batch becomes one task with all payloads, a debounce one with the latest, and a count."""
    texts = ["{'id': (1, 2), 'n': b'x'}", '{"id": 1, "n": 1}', '{"id": 1, "n": 2}']
    payloads = [{"id": (1, 2), "n": b"x"}, {"id": 1, "n": 1}, {"id": 1, "n": 2}]
    shop.notify(*[("many", text) for text in texts])
    assert shop.wait_written("batched", 1) == [(payloads, 3)]
    debounced = shop.wait_written("debounced", 2)
    assert [payload for payload, _ in debounced] == [payloads[0], payloads[2]]
    assert [origin.get("count") for _, origin in debounced] == [None, 2]
    shop.wait_written("other", 2)
    eventually(lambda: lists(shop) == [payloads[:2], payloads[2:]])
