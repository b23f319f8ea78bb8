"""`celery worker --pgnotifier`: a listener in a worker, and `celery inspect pgnotifier`."""

import json
import signal

import pytest

SHOP = """
from pgnotifier.contrib.celery import CeleryNotifier

app.conf.pgnotifier_dsn = os.environ["DSN"]
notifier = CeleryNotifier(app)

@notifier.on("ch", id="a")
def record(id, channel, payload, pid):
    write("received", payload, os.getpid(), os.getppid())
"""


def payloads(shop, count):
    """Return the payloads of the tasks that ran, once there are `count` of them."""
    return [payload for payload, *_ in shop.wait_written("received", count)]


def ask(shop, *args):
    """Return the answers to `celery inspect pgnotifier`."""
    asking = shop.celery("inspect", "pgnotifier", "--json", "--timeout", "5", *args)
    assert asking.wait() == 0, asking.log
    return json.loads(asking.log.strip().splitlines()[-1])


@pytest.mark.parametrize(
    "pool",
    [
        ("-P", "solo"),
        ("-P", "threads", "-c", "2"),
        ("-P", "prefork", "-c", "2", "--max-tasks-per-child", "1"),
    ],
    ids=["solo", "threads", "prefork"],
)
def test_listens_and_works(open_shop, pool):
    """Each notification becomes one task, however often the pool forks; SIGTERM ends the worker."""
    shop = open_shop(SHOP)
    worker = shop.worker("--pgnotifier", *pool)
    worker.wait_for("listening 1 channel")
    for number in range(20):
        shop.notify(("ch", str(number)))
    assert sorted(payloads(shop, 20)) == list(range(20))
    if "prefork" in pool:
        assert len({pid for _, pid, _ in shop.written("received")}) == 20
    assert shop.sessions() == 2  # a leader has a companion
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert shop.sessions() == 0
    assert len(shop.written("received")) == 20
    assert "Traceback" not in worker.log


def test_survives_a_restart_of_the_pool(open_shop):
    """The listener goes on after `celery control pool_restart`."""
    shop = open_shop(SHOP + "app.conf.worker_pool_restarts = True\n")
    worker = shop.worker("--pgnotifier", "-P", "prefork", "-c", "1")
    worker.wait_for("listening 1 channel")
    shop.notify(("ch", "1"))
    assert payloads(shop, 1) == [1]
    restart = shop.celery("control", "pool_restart")
    assert restart.wait() == 0, restart.log
    shop.notify(("ch", "2"))
    assert payloads(shop, 2) == [1, 2]
    (_, before, _), (_, after, _) = shop.written("received")
    assert before != after


def test_of_two_one_listens(open_shop):
    """Of two workers one listens; the other is on standby, and takes over when that is killed."""
    shop = open_shop(SHOP)
    first = shop.worker("--pgnotifier")
    first.wait_for("listening 1 channel")
    second = shop.worker("--pgnotifier")
    second.wait_for("standby as")
    shop.notify(*[("ch", str(number)) for number in range(10)])
    assert sorted(payloads(shop, 10)) == list(range(10))
    first.signal(signal.SIGKILL)
    second.wait_for("took over")
    shop.notify(("ch", "10"))
    assert 10 in payloads(shop, 11)
    assert len(shop.written("received")) == 11


def test_a_command_with_standby_and_a_worker(open_shop):
    """`celery pgnotifier --standby` takes over from a worker that listened."""
    shop = open_shop(SHOP)
    worker = shop.worker("--pgnotifier")
    worker.wait_for("listening 1 channel")
    listener = shop.celery("pgnotifier", "--standby")
    listener.wait_for("standby as")
    shop.notify(("ch", "1"))
    assert payloads(shop, 1) == [1]
    worker.signal(signal.SIGTERM)
    listener.wait_for("took over")
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 0
    assert len(shop.written("received")) == 1


def test_inspect(open_shop):
    """`celery inspect pgnotifier` shows a listener's status, or that the worker doesn't listen."""
    shop = open_shop(SHOP)
    shop.worker("--pgnotifier").wait_for("listening 1 channel")
    shop.notify(("ch", "1"))
    payloads(shop, 1)
    (answer,) = ask(shop).values()
    (status,) = answer["notifiers"]
    assert status["state"] == "listening"
    assert status["received"] == 1
    (dispatcher,) = status["dispatchers"]
    (subscription,) = dispatcher["details"]["subscriptions"]
    assert subscription["task"] == "pgnotifier.a"
    shop.worker()
    answers = ask(shop)
    assert sorted(len(answer["notifiers"]) for answer in answers.values()) == [0, 1]
    assert ["note" in answer for answer in answers.values()].count(True) == 1


def test_works_without_postgresql(open_shop):
    """A worker runs tasks while its listener can't connect, and logs once that it can't."""
    shop = open_shop(
        SHOP.replace(
            "@notifier.on", "@app.task(name='own')\ndef own(): write('received', 0)\n\n@notifier.on"
        )
    )
    worker = shop.worker("--pgnotifier", DSN="postgresql://127.0.0.1:1/none")
    worker.wait_for("trying to connect: ")
    assert "can't connect to PostgreSQL" in worker.log
    (answer,) = ask(shop).values()
    assert [status["state"] for status in answer["notifiers"]] == ["starting"]
    assert shop.celery("call", "own").wait() == 0
    assert payloads(shop, 1) == [0]
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.log.count("trying to connect") == 1
    assert "ERROR" not in worker.log


WITHOUT_THREADS = """
import threading
start = threading.Thread.start

def refuse(thread):
    if os.path.exists("full"):
        raise RuntimeError("can't start new thread")
    start(thread)

threading.Thread.start = refuse

@app.task(name="own")
def own():
    write("received", 0)
"""


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_works_without_threads(open_shop, pool):
    """While no thread can be started, the worker is ready; it listens as soon as one can be."""
    shop = open_shop(WITHOUT_THREADS + SHOP)
    full = shop.directory / "full"
    full.touch()
    worker = shop.worker("--pgnotifier", "-P", pool)
    assert worker.log.count("not listening yet, as no thread can be started (can't start") == 1
    if pool == "solo":  # the other one needs a thread for each task
        assert shop.celery("call", "own").wait() == 0
        assert payloads(shop, 1) == [0]
    assert "listening 1 channel" not in worker.log
    full.unlink()
    worker.wait_for("listening 1 channel")
    shop.notify(("ch", "1"))
    assert payloads(shop, 1 + (pool == "solo"))[-1] == 1
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.log.count("not listening yet") == 1
    assert "Traceback" not in worker.log


def test_stops_without_threads(open_shop):
    """SIGTERM ends a worker that has never been able to listen."""
    shop = open_shop(WITHOUT_THREADS + SHOP)
    (shop.directory / "full").touch()
    worker = shop.worker("--pgnotifier", "-P", "solo")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert "Traceback" not in worker.log


def test_no_timer_without_threads(open_shop):
    """With a broker for which Celery's own timer needs a thread, the worker ends, and says why."""
    source = WITHOUT_THREADS + SHOP + "app.conf.broker_url = 'memory://'\n"
    shop = open_shop(source)
    (shop.directory / "full").touch()
    worker = shop.celery("worker", "--pgnotifier", "-P", "solo")
    assert worker.wait() == 1
    assert "Unrecoverable error: RuntimeError" in worker.log


@pytest.mark.parametrize(
    ("source", "args", "says"),
    [
        ("", (), "no notifier enqueues tasks"),
        (SHOP, ("-P", "gevent"), "does not work with the pool gevent"),
        (SHOP + "app.conf.pgnotifier_dns = 'x'\n", (), "did you mean 'pgnotifier_dsn'"),
    ],
)
def test_refusals(open_shop, source, args, says):
    """A worker that can't listen ends at once with the reason, and without a traceback."""
    shop = open_shop(source)
    worker = shop.celery("worker", "--pgnotifier", "--without-mingle", *args)
    assert worker.wait() == 2
    assert says in " ".join(worker.log.split())
    assert "Traceback" not in worker.log
