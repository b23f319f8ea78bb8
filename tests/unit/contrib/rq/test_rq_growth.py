"""Starts, stops and refusals leave nothing behind that grows with their number."""

import gc
import threading
from pathlib import Path

import callbacks
import pytest
import redis
from rq import Queue

from pgnotifier.contrib.rq.sending import Sender

pytestmark = pytest.mark.slow


def count(*kinds):
    """Return how many objects of these kinds there are."""
    gc.collect()
    return sum(type(one) in kinds for one in gc.get_objects())  # isinstance() evaluates proxies


def descriptors():
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def in_a_thread(work, *args):
    """Call a function in a thread, as a deliverer does."""
    thread = threading.Thread(target=work, args=args)
    thread.start()
    thread.join()


def test_starts_and_stops(make_desk, pgnotifier_redis_url):
    """Each stop frees the connections and what was known of their transactions."""
    desk = make_desk(pgnotifier_redis_url)
    binding = desk.subscribe(callbacks.callback)
    in_a_thread(desk.deliver, binding, "1")
    desk.dispatcher.close()
    open_ones, threads, senders = descriptors(), threading.active_count(), count(Sender)
    for _ in range(200):
        in_a_thread(desk.deliver, binding, "1", "2")
        desk.dispatcher.close()
    assert count(Sender) <= senders
    assert descriptors() <= open_ones
    assert threading.active_count() <= threads


def test_queues_that_come_and_go(make_desk, client, pgnotifier_redis_url):
    """A connection that no subscription uses any more isn't kept."""
    desk = make_desk(client)
    before = count(Sender)
    for number in range(20):
        queue = Queue(connection=redis.Redis.from_url(pgnotifier_redis_url))
        binding = desk.subscribe(callbacks.callback, id=str(number), queue=queue)
        desk.deliver(binding, "1")
        desk.dispatcher.unbind(binding.subscription)
        queue.connection.close()
        del binding, queue
    assert count(Sender) <= before + 1


def test_a_server_that_is_down(make_desk, free_port):
    """Failed attempts to reach a server that is down leave no open descriptors or senders."""
    desk = make_desk(f"redis://localhost:{free_port}")
    batch = desk.batch((desk.subscribe(callbacks.callback), "1"))

    def try_it():
        try:
            desk.dispatcher.dispatch(batch)
        except redis.ConnectionError:
            return
        raise AssertionError("it isn't down")

    try_it()
    before, senders = descriptors(), count(Sender)
    for _ in range(20):
        try_it()
    assert descriptors() <= before
    assert count(Sender) <= senders
    assert batch.remaining == 1
