"""Web processes, relays and the broker are killed: committed orders have their tasks, others none.

With `delay()` in the transaction, after the commit, or with `delay_on_commit()`, they don't.
"""

import json
import re
import signal
from contextlib import closing

import pytest
from redis import Redis
from rq import Queue

from pgnotifier.testing import ValkeyServer

from . import django_shopping, rq_shopping
from .shopping import DJANGO_WAYS, SCRIPT, TABLES, WAYS
from .waiting import eventually

BEGUN = "SELECT last_value FROM outbox"
BEHIND = "SELECT sum(lag) FROM pgnotifier.list_positions()"
PAYLOADS = "SELECT payload FROM pgnotifier.log"
ORDERS = "SELECT number FROM orders WHERE way = %s"
INVOICES = "SELECT DISTINCT number FROM invoices WHERE way = %s"
NUMBER = re.compile(r"\('\w+', (\d+)\)")
"""The number of an order in its task's message."""


@pytest.fixture
def broker():
    """Yield a Valkey that keeps what it has got when it is killed."""
    with ValkeyServer(persistent=True) as server:
        yield server


def ends_well(script):
    """Return whether a script has ended without an error."""
    return script.wait(600) == 0 or pytest.fail(script.err)


def numbers(log, query, way):
    """Return the numbers that a query finds for a way of taking orders."""
    return {number for (number,) in log.execute(query, way)}


def is_empty(url):
    """Return whether the broker has no task, and has handed out none that isn't executed."""
    with closing(Redis.from_url(url)) as redis:
        return not redis.exists(*WAYS, *DJANGO_WAYS, "unacked")


@pytest.mark.parametrize(
    ("transactions", "controls", "seconds"),
    [pytest.param(300, 200, 1), pytest.param(10_000, 500, 3, marks=[pytest.mark.gate])],
    ids=["short", "long"],
)
@pytest.mark.timeout(900)
def test_everything_is_killed(log, broker, run_script, transactions, controls, seconds):
    """With an outbox, exactly the tasks of committed orders are executed; without one, others are.

    Celery takes a task from Redis before it notes that it isn't acknowledged, so a broker that is
    killed in between loses it. That isn't what is tested: the worker begins after the broker's end.
    """
    log.execute(TABLES)
    relays = [run_script(SCRIPT, log.dsn, "relay", broker.url, str(seconds)) for _ in range(2)]
    counts = {"delay": controls, "after": controls, "outbox": transactions}
    # Only some of the kills lose a task, so those without an outbox are killed more often.
    webs = [
        run_script(SCRIPT, log.dsn, "web", broker.url, way, str(count), most)
        for (way, count), most in zip(counts.items(), ("10", "10", "40"), strict=True)
    ]
    for part in (0.1, 0.3, 0.5):
        begun = transactions * part
        eventually(lambda begun=begun: log.execute(BEGUN)[0][0] > begun, 300)
        broker.kill()
        broker.start()
    run_script(SCRIPT, log.dsn, "worker", broker.url)
    assert all(map(ends_well, webs))
    for relay in relays:
        relay.process.send_signal(signal.SIGTERM)  # kill no more
        relay.prints("kills")
    orders = {way: numbers(log, ORDERS, way) for way in WAYS}
    eventually(lambda: orders["outbox"] <= numbers(log, INVOICES, "outbox"), 300)
    eventually(lambda: log.execute(BEHIND) == [(0,)] and is_empty(broker.url), 120)
    invoices = {way: numbers(log, INVOICES, way) for way in WAYS}

    assert invoices["outbox"] == orders["outbox"]
    assert invoices["delay"] - orders["delay"]
    assert orders["after"] - invoices["after"]
    assert not any(one.out.startswith("0 kills") for one in (*webs, *relays))


@pytest.mark.parametrize(
    "step", [pytest.param(197), pytest.param(10, marks=[pytest.mark.gate])], ids=["short", "long"]
)
@pytest.mark.timeout(600)
def test_killed_before_each_line(log, broker, run_script, step):
    """Before whichever line a web process is killed, the outbox has the tasks of what is committed.

    The lines are those of psycopg, Celery and pgnotifier: over 4,000 for two orders. One of them is
    rolled back.
    """
    log.execute(TABLES)
    webs = [
        run_script(SCRIPT, log.dsn, "stepping_web", broker.url, way, str(lines), traces=True)
        for way, lines in {"delay": 199, "after": 199, "outbox": step}.items()
    ]
    assert all(map(ends_well, webs))
    orders = {way: numbers(log, ORDERS, way) for way in WAYS}
    with closing(Redis.from_url(broker.url, decode_responses=True)) as redis:
        texts = {way: redis.lrange(way, 0, -1) for way in WAYS}
    texts["outbox"] = [payload for (payload,) in log.execute(PAYLOADS)]
    tasks = {way: sorted(int(NUMBER.search(one)[1]) for one in texts[way]) for way in WAYS}

    assert tasks["outbox"] == sorted(orders["outbox"])
    assert set(tasks["delay"]) - orders["delay"]
    assert orders["after"] - set(tasks["after"])


@pytest.mark.parametrize(
    ("transactions", "controls"),
    [pytest.param(150, 200), pytest.param(1_500, 500, marks=[pytest.mark.gate])],
    ids=["short", "long"],
)
@pytest.mark.timeout(600)
def test_a_django_project_is_killed(log, broker, run_script, transactions, controls):
    """With `OUTBOX`, exactly the tasks of committed orders run; `delay_on_commit()` loses some."""
    log.execute(TABLES)
    script = django_shopping.SCRIPT
    relay = run_script(script, log.dsn, "relay", broker.url, "django", "1")
    # Only some of the kills lose a task, so there are more of them without the outbox.
    webs = [
        run_script(script, log.dsn, "web", broker.url, way, str(count), most)
        for way, count, most in (("django", transactions, "10"), ("on_commit", controls, "3"))
    ]
    run_script(SCRIPT, log.dsn, "worker", broker.url)
    assert all(map(ends_well, webs))
    relay.process.send_signal(signal.SIGTERM)  # kill no more
    relay.prints("kills")
    orders = {way: numbers(log, ORDERS, way) for way in DJANGO_WAYS}
    eventually(lambda: orders["django"] <= numbers(log, INVOICES, "django"), 120)
    eventually(lambda: log.execute(BEHIND) == [(0,)] and is_empty(broker.url), 120)
    invoices = {way: numbers(log, INVOICES, way) for way in DJANGO_WAYS}

    assert invoices["django"] == orders["django"]
    assert invoices["on_commit"] < orders["on_commit"]
    assert not any(one.out.startswith("0 kills") for one in webs)


@pytest.mark.parametrize(
    "step", [pytest.param(293), pytest.param(50, marks=[pytest.mark.gate])], ids=["short", "long"]
)
@pytest.mark.timeout(600)
def test_a_django_project_is_killed_before_each_line(log, broker, run_script, step):
    """Before whichever line it is killed, the outbox has the tasks of what is committed."""
    log.execute(TABLES)
    lines = {"django": step, "on_commit": 251}
    webs = [
        run_script(
            django_shopping.SCRIPT,
            *(log.dsn, "stepping_web", broker.url, way, str(each)),
            traces=True,
        )
        for way, each in lines.items()
    ]
    assert all(map(ends_well, webs))
    orders = {way: numbers(log, ORDERS, way) for way in DJANGO_WAYS}
    with closing(Redis.from_url(broker.url, decode_responses=True)) as redis:
        texts = {"on_commit": redis.lrange("on_commit", 0, -1)}
    texts["django"] = [payload for (payload,) in log.execute(PAYLOADS)]
    tasks = {way: sorted(int(NUMBER.search(one)[1]) for one in texts[way]) for way in DJANGO_WAYS}

    assert tasks["django"] == sorted(orders["django"])
    assert set(tasks["on_commit"]) < orders["on_commit"]


@pytest.mark.parametrize(
    "step", [pytest.param(97), pytest.param(30, marks=[pytest.mark.gate])], ids=["short", "long"]
)
@pytest.mark.timeout(600)
def test_jobs_of_rq_before_each_line(log, broker, run_script, step):
    """Before whichever line a process is killed, the outbox has the jobs of what is committed."""
    log.execute(TABLES)
    webs = [
        run_script(
            rq_shopping.SCRIPT,
            *(log.dsn, "stepping_web", broker.url, way, str(lines)),
            traces=True,
        )
        for way, lines in {"delay": 97, "after": 97, "outbox": step}.items()
    ]
    assert all(map(ends_well, webs))
    orders = {way: {f"{way}-{one}" for one in numbers(log, ORDERS, way)} for way in WAYS}
    with closing(Redis.from_url(broker.url)) as redis:
        jobs = {way: Queue(way, connection=redis).job_ids for way in WAYS}
    jobs["outbox"] = [json.loads(payload)["id"] for (payload,) in log.execute(PAYLOADS)]

    assert sorted(jobs["outbox"]) == sorted(orders["outbox"])
    assert set(jobs["delay"]) - orders["delay"]
    assert orders["after"] - set(jobs["after"])


@pytest.mark.parametrize(
    ("transactions", "seconds"),
    [pytest.param(300, 1), pytest.param(3_000, 3, marks=[pytest.mark.gate])],
    ids=["short", "long"],
)
@pytest.mark.timeout(600)
def test_processes_with_jobs_of_rq(log, broker, run_script, transactions, seconds):
    """What enqueues is killed, and so are relays: each committed job is in Redis, just once."""
    log.execute(TABLES)
    script = rq_shopping.SCRIPT
    relays = [run_script(script, log.dsn, "relay", broker.url, str(seconds)) for _ in range(2)]
    web = run_script(script, log.dsn, "web", broker.url, "outbox", str(transactions), "40")
    assert ends_well(web)
    for relay in relays:
        relay.process.send_signal(signal.SIGTERM)  # kill no more
        relay.prints("kills")
    expected = [f"outbox-{one}" for one in sorted(numbers(log, ORDERS, "outbox"))]
    with closing(Redis.from_url(broker.url)) as redis:
        queue = Queue("outbox", connection=redis)
        eventually(lambda: {*expected} <= {*queue.job_ids}, 120)
        eventually(lambda: log.execute(BEHIND) == [(0,)], 60)
        assert queue.job_ids == expected  # in their order, as one process enqueues at a time
    assert not web.out.startswith("0 kills")
