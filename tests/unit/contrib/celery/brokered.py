"""Shared by the tests of publishing: payloads, tasks, and access to a real broker's messages."""

import json
from contextlib import contextmanager

import pytest
import redis
from celery import chain

from pgnotifier.contrib.celery import carriers_redis

TEXTS = [
    '{"id": 1, "item": "tea", "amount": 2.5}',
    '{"id": 2, "item": "\\u00e9\\"\'\\\\", "tags": [[1], {"a": {"b": null}}]}',
    "{1: (2, b'x')}",
    "plain words",
    "",
    '{"__type__": "datetime", "__value__": "x"}',
    "[1e999, true, 123456789012345678901234567890]",
    json.dumps({"long": "x" * 3000}),
    "(1, {2}, ..., nan)",
    "1",
]


def callback(*_):
    """Do nothing."""


def own(app, **settings):
    @app.task(name="own", **settings)
    def own(*args, **kwargs):
        """Do nothing."""

    return own


def twice(task):
    return chain(task.s(1), task.si(2))


def failing(self, *_):
    raise redis.ConnectionError("down")


@contextmanager
def answers_lost():
    """Have Redis store what Celery and the carrier push, and lose its answers."""

    def losing(push):
        def push_and_fail(*args, **kwargs):
            push(*args, **kwargs)
            raise redis.ConnectionError("no answer")

        return push_and_fail

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((redis.Redis, "lpush"), (carriers_redis, "push_bytes")):
            patch.setattr(owner, name, losing(getattr(owner, name)))
        yield


def take_messages(url):
    """Take all messages out of the broker; return them by list, in the order of publishing."""
    found = {}
    with redis.Redis.from_url(url) as client:
        for key in sorted(client.keys()):
            if client.type(key) == b"list":
                found[key.decode()] = [json.loads(m) for m in reversed(client.lrange(key, 0, -1))]
        client.flushdb()
    return found
