"""Passwords of Redis are never shown."""

import gc
import traceback
import warnings
from types import MappingProxyType

import callbacks
import pytest
import redis

from pgnotifier import ArgumentTypeError, ConfigurationError, Subscription
from pgnotifier.contrib.rq import RQDispatcher

SECRETS = ["hid/qzx", "hid#qzx", "hid?qzx", "hid[qzx", "hid]qzx", "hid%qzx", "hid@qzx", "hid qzx"]


@pytest.fixture
def without_sockets():
    """Close the sockets that old versions of redis-py leave open when they can't connect."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.usefixtures("without_sockets")
@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
@pytest.mark.parametrize("secret", SECRETS)
def test_urls(scheme, secret, free_port):
    """The password isn't shown if the server is down, or if the URL can't be parsed."""
    with pytest.raises((redis.RedisError, ValueError)) as caught:
        RQDispatcher(f"{scheme}://u:{secret}@127.0.0.1:{free_port}/0")._queue.connection.ping()
    said = "".join(traceback.format_exception(caught.value))
    assert "hid" not in said
    assert "qzx" not in said


def test_a_query_that_redis_does_not_know():
    """An unknown query parameter, which may be part of a password, is refused and not shown."""
    with pytest.raises(ConfigurationError, match="percent-encode characters such as") as caught:
        RQDispatcher("redis://h/0?password=hid&qzx=1")
    said = "".join(traceback.format_exception(caught.value)).partition("ConfigurationError")[2]
    assert "hid" not in said
    assert "qzx" not in said
    options = RQDispatcher("redis://h/0?health_check_interval=2")._queue.connection
    assert options.connection_pool.connection_kwargs["health_check_interval"] == 2


@pytest.mark.parametrize("url", ["unix:///tmp/with@sign.sock", "unix://u:pass@/tmp/a.sock?db=1"])
def test_sockets(url):
    """The path of a socket may contain an at sign, and a password may come before it."""
    assert RQDispatcher(url)._queue.connection.connection_pool


def test_what_is_mistaken_for_a_queue():
    """If a connection is given as `queue=`, the error doesn't show its password."""
    connection = redis.Redis(password="hidqzx", ssl=True, ssl_password="hidqzx")
    dispatcher = RQDispatcher("redis://:hidqzx@h")
    subscription = Subscription(
        "a", "ch", callbacks.callback, dispatcher, MappingProxyType({"queue": connection})
    )
    with pytest.raises(ArgumentTypeError) as caught:
        dispatcher.bind(subscription)
    assert "hidqzx" not in str(caught.value) + repr(dispatcher)
