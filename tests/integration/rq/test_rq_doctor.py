"""`pgnotifier doctor` names what is wrong with a Redis, and with the workers of RQ."""

import json
import socket

import pytest
import redis
from rq.suspension import resume, suspend

from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.target import Target
from pgnotifier.contrib.rq import RQDispatcher
from pgnotifier.contrib.rq.checkup import check

SECRET = "sesame-4711"
SHOP = """
@notifier.on("orders")
def invoice(*args): ...
"""


@pytest.fixture
def examine(open_shop):
    """Return a function that runs the command in a shop; it returns the code and the problems."""
    shop = open_shop(SHOP)

    def examine(*arguments, **env):
        done = shop.pgnotifier("doctor", "-m", "shop", "--json", *arguments, **env)
        code = done.wait()
        assert SECRET not in done.log
        findings = json.loads(done.log)["findings"]
        found = [one for one in findings if one["level"] != "ok"]
        assert all(one["advice"] for one in found)
        return code, {one["check"]: f"{one['seen']} {one['advice']}" for one in found}

    examine.shop = shop
    return examine


def test_with_and_without_a_worker(examine):
    """A queue that nobody reads is named, and so are suspended workers; else there is nothing."""
    shop = examine.shop
    code, problems = examine()
    assert code == 1
    assert problems.keys() == {"workers", "listening"}
    assert f"No worker reads the queue '{shop.queue}'" in problems["workers"]
    assert f"rq worker {shop.queue}" in problems["workers"]
    shop.worker()
    shop.listener()
    before = {*shop.redis.keys()}
    assert examine() == (0, {})
    assert {*shop.redis.keys()} - before == set()
    suspend(shop.redis)
    try:
        assert "rq resume" in examine()[1]["workers"]
    finally:
        resume(shop.redis)


@pytest.fixture
def checked(pgnotifier_dsn, make_notifier):
    """Return a function that checks a Redis, and returns the problems by check."""

    def checked(url, timeout=5.0):
        dispatcher = RQDispatcher(url)
        notifier = make_notifier(pgnotifier_dsn, dispatcher=dispatcher)
        notifier.subscribe("dump", "orders", json.dumps)
        case = Case(Target(notifier.parameters, (notifier,)), timeout=timeout)
        found = [one.cleaned(case.secrets) for one in check(case, [dispatcher])]
        dispatcher.close()
        assert SECRET not in str(found)
        return {one.check: f"{one.seen} {one.advice}" for one in found if one.level != "ok"}

    return checked


def test_a_redis_that_evicts(pgnotifier_private_valkey, checked):
    """A Redis that evicts queues when it is full is named; a limit alone is fine."""
    url = pgnotifier_private_valkey.url
    with redis.Redis.from_url(url) as admin:
        admin.config_set("maxmemory", "100mb")
        assert checked(url).keys() == {"workers"}
        admin.config_set("maxmemory-policy", "allkeys-lru")
        problems = checked(url)
        assert problems.keys() == {"workers", "memory"}
        assert "Set maxmemory-policy noeviction" in problems["memory"]
        admin.config_set("requirepass", "another")
    problems = checked(url.replace("redis://", f"redis://:{SECRET}@"))
    assert problems.keys() == {"broker"}
    assert "Correct the user and the password" in problems["broker"]


def test_a_redis_that_is_down(checked):
    """A Redis that can't be reached, or that hangs, is named."""
    problems = checked(f"redis://:{SECRET}@127.0.0.1:1/0")
    assert problems.keys() == {"broker"}
    assert "Start the broker" in problems["broker"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        problems = checked(f"redis://:{SECRET}@127.0.0.1:{server.getsockname()[1]}/0", 0.3)
    assert "no answer within 0.3 s" in problems["broker"]
