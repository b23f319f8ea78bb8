"""What a relay does with many messages at once, if some of them go another way."""

import json
import threading
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from pgnotifier._delivery.portions import Portion, PortionBatch, Row
from pgnotifier._durable.receipt import Ledger, SharedReceipt
from pgnotifier.contrib.celery.carriers_redis import RedisCarrier
from pgnotifier.contrib.celery.relay import OutboxDispatcher
from pgnotifier.dispatch import Binding, Subscription

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MESSAGE = (
    '{"body": "W1tdLCB7fSwge31d", "content-encoding": "utf-8",'
    ' "content-type": "application/json", "headers": {"task": "shop.invoice", "id": "%s"},'
    ' "properties": {"correlation_id": "%s", "delivery_tag": "t", "body_encoding": "base64",'
    ' "delivery_info": {"exchange": "", "routing_key": "%s"}, "priority": 0}}'
)


def message(number, queue="celery"):
    """Return the text of a message."""
    return MESSAGE % (number, number, queue)


def invoice(order):
    """Do nothing: no worker runs."""


class Desk:
    """Hands portions to a relay, as a deliverer would."""

    def __init__(self, url):
        self.redis = Redis.from_url(url, decode_responses=True)
        self.redis.flushdb()
        self.app = Celery("shop", broker=url, set_as_current=False)
        self.app.task(name="shop.invoice", shared=False)(invoice)
        self.dispatcher = OutboxDispatcher(self.app)
        subscription = Subscription("relay", "outbox", print, self.dispatcher)
        self.reported = []
        self.binding = Binding(subscription, None, lambda exc, *_: self.reported.append(str(exc)))

    def batch(self, *texts):
        """Return the batch of entries, which are numbered from 0, and their ledger."""
        ledger = Ledger(range(len(texts)), lambda: None)
        rows = [Row(at, NOW, None, text.encode()) for at, text in enumerate(texts)]
        receipt = SharedReceipt(ledger, self.binding.mutes)
        return PortionBatch(Portion(self.binding, rows, NOW, receipt)), ledger

    def dispatch(self, *texts):
        """Dispatch entries; return their ledger, as it is while the batch is still there."""
        batch, ledger = self.batch(*texts)
        self.dispatcher.dispatch(batch)
        assert batch.remaining == 0
        batch.settle()
        return ledger

    def ids(self, queue="celery"):
        """Return the ids of the tasks in a list, in the order in which workers get them."""
        texts = self.redis.lrange(queue, 0, -1)[::-1]
        return [json.loads(text)["headers"]["id"] for text in texts]

    @contextmanager
    def waiting_for_redis(self, batch, eventually):
        """Run a block while a thread that dispatches waits for Redis; yield what it raises."""
        raised = []

        def dispatch():
            try:
                self.dispatcher.dispatch(batch)
            except RedisConnectionError as exc:
                raised.append(exc)

        self.dispatch(message("first"))  # which declares the queue
        self.redis.delete("celery")
        self.redis.client_pause(60_000, all=False)
        thread = threading.Thread(target=dispatch)
        thread.start()
        eventually(lambda: "lpush" in [one["cmd"] for one in self.redis.client_list()])
        yield raised
        thread.join(60)

    def close(self):
        """Close the connections."""
        self.dispatcher.close()
        self.app.close()
        self.redis.close()


@pytest.fixture
def desk(pgnotifier_private_valkey):
    """Yield a desk with a Valkey of its own."""
    with closing(Desk(f"{pgnotifier_private_valkey.url.rpartition('/')[0]}/13")) as desk:
        yield desk


def test_many(desk):
    """All of them get to the lists of their queues, in order, and are counted by task."""
    count = 2 * RedisCarrier.chunk + 7
    ledger = desk.dispatch(*(message(n, f"q{n % 2}") for n in range(count)))
    assert desk.ids("q0") == [str(n) for n in range(0, count, 2)]
    assert desk.ids("q1") == [str(n) for n in range(1, count, 2)]
    assert ledger.is_done
    assert not ledger.failures
    assert desk.dispatcher.details()["relayed"] == {"shop.invoice": count}


def test_a_list_that_is_none(desk):
    """What Redis refuses for good is reported, each by itself; all others are stored."""
    desk.dispatch(message("first", "broken"))  # which declares the queue
    desk.redis.set("broken", "no list")
    ledger = desk.dispatch(*(message(n, "broken" if n % 5 == 3 else "celery") for n in range(20)))
    assert desk.ids() == [str(n) for n in range(20) if n % 5 != 3]
    assert sorted(ledger.failures) == [3, 8, 13, 18]
    assert ledger.is_done
    assert all("WRONGTYPE" in one for one in desk.reported)
    details = desk.dispatcher.details()
    assert (details["relayed"], details["refused"]) == ({"shop.invoice": 17}, 4)


def test_other_entries_in_between(desk):
    """Tasks that SQL asks for keep their places; what nobody can read is reported."""
    request = json.dumps({"task": "shop.invoice", "id": "sql", "args": [7]})
    unknown = json.dumps({"task": "shop.unknown"})
    texts = [message(1), message(2), request, message(3), "no JSON {", unknown, message(4)]
    ledger = desk.dispatch(*texts)
    assert desk.ids() == ["1", "2", "sql", "3", "4"]
    assert sorted(ledger.failures) == [4, 5]
    assert desk.dispatcher.details()["refused"] == 2


def test_what_is_refused_for_now(desk):
    """If Redis is full, everything that it hasn't stored is left, and stored later, once."""
    desk.redis.config_set("maxmemory-policy", "noeviction")
    desk.redis.config_set("maxmemory", 1)
    batch, _ = desk.batch(*(message(n, f"q{n % 2}") for n in range(10)))
    try:
        with pytest.raises(ResponseError, match="maxmemory"):
            desk.dispatcher.dispatch(batch)
    finally:
        desk.redis.config_set("maxmemory", 0)
    assert batch.remaining == 10
    assert desk.dispatcher.details()["relayed"] == {}
    desk.dispatcher.dispatch(batch)
    assert (desk.ids("q0"), desk.ids("q1")) == ([*"02468"], [*"13579"])
    assert not desk.reported


def test_a_broker_that_is_killed(desk, pgnotifier_private_valkey, eventually):
    """What Redis hasn't acknowledged when it dies is left, in order."""
    batch, _ = desk.batch(*(message(n) for n in range(10)))
    with desk.waiting_for_redis(batch, eventually) as raised:
        pgnotifier_private_valkey.kill()
    assert raised
    assert [one.notification.id for one in batch.rest()] == [*range(10)]
    pgnotifier_private_valkey.start()
    desk.dispatcher.dispatch(batch)
    assert desk.ids() == [str(n) for n in range(10)]


def test_cancelling(desk, eventually):
    """What is under way when a batch is cancelled is stored, and nothing after it."""
    batch, _ = desk.batch(*(message(n) for n in range(RedisCarrier.chunk + 10)))
    with desk.waiting_for_redis(batch, eventually) as raised:
        batch.cancel()
        desk.redis.client_unpause()
    assert not raised
    assert len(desk.ids()) == RedisCarrier.chunk


def test_a_muted_subscription(desk):
    """Nothing is stored, and nothing counts as done."""
    desk.binding.live = False
    ledger = desk.dispatch(message(1), message(2))
    assert desk.ids() == []
    assert ledger.left == {0, 1}


def test_a_prefix_of_all_keys(desk):
    """With `global_keyprefix`, the lists have that in front of their names."""
    desk.app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
    desk.dispatch(message(1), message(2))
    assert desk.ids("shop:celery") == ["1", "2"]
