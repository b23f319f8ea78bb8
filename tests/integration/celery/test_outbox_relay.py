"""The relay of an outbox: what is in the log gets to Redis and RabbitMQ as Celery would send it."""

import gc
import json
import logging
from contextlib import closing, suppress

import psycopg
import pytest
from celery import Celery, chain
from kombu import Exchange, Queue
from kombu.common import Broadcast
from outboxes import capture, catch, make_app
from redis import Redis

from pgnotifier import ConfigurationError
from pgnotifier._durable import upkeep
from pgnotifier._log.outbox_queries import outboxes
from pgnotifier.contrib.celery import CeleryNotifier
from pgnotifier.contrib.celery.dispatcher import notifiers_of
from pgnotifier.contrib.celery.outbox_capture import Capture
from pgnotifier.contrib.celery.relay import OutboxDispatcher

CHANNEL = "pgnotifier:celery:default"
ID = "outbox:celery:shop"
FIRST, SECOND = 14, 15  # databases of Valkey


class Outbox:
    """An outbox in a database, and a broker that its relay fills."""

    def __init__(self, log, url, make_notifier):
        self.log = log
        base = url.rpartition("/")[0]
        self.made_in, self.url = f"{base}/{FIRST}", f"{base}/{SECOND}"
        self.redis = Redis.from_url(self.url, decode_responses=True)
        self.redis.flushdb()
        self._make_notifier = make_notifier
        log.execute("SELECT pgnotifier.subscribe(%s, %s)", ID, CHANNEL)  # as whoever enqueues does

    def make(self, publish, **conf):
        """Return key and text of the messages that a function publishes with an app."""
        app = make_app(self.made_in, **conf)
        return catch(app, self.made_in, lambda: publish(app))

    def put(self, *entries):
        """Put entries into the outbox, in one transaction."""
        with psycopg.connect(self.log.dsn) as connection:
            for key, text in entries:
                connection.execute(
                    "INSERT INTO pgnotifier.log (channel, key, payload) VALUES (%s, %s, %s)",
                    (CHANNEL, key, text),
                )

    def ask(self, **request):
        """Put in what SQL's own function would."""
        self.put((None, json.dumps(request)))

    def relay(self, app=None, allow=None):
        """Start a relay; return its notifier."""
        app = make_app(self.url) if app is None else app
        notifier = self._make_notifier(self.log.dsn)
        OutboxDispatcher(app, allow=allow).relay_to(notifier)
        notifier.start()
        return notifier

    def texts(self, key="celery"):
        """Return the messages of a list, in the order in which workers get them."""
        return self.redis.lrange(key, 0, -1)[::-1]

    def tasks(self, key="celery"):
        """Return the names of the tasks in a list."""
        return [json.loads(text)["headers"]["task"] for text in self.texts(key)]

    def dead(self):
        """Return why entries were set aside."""
        found = self.log.execute("SELECT error FROM pgnotifier.failed WHERE dead ORDER BY n")
        return [error for (error,) in found]


@pytest.fixture
def outbox(log, pgnotifier_private_valkey, make_notifier):
    """Yield an outbox; its broker is emptied."""
    outbox = Outbox(log, pgnotifier_private_valkey.url, make_notifier)
    with closing(outbox.redis):
        yield outbox


def invoices(*numbers):
    """Return a function that publishes invoices."""
    return lambda app: [app.tasks["shop.invoice"].delay(n) for n in numbers]


def send_to(text, exchange, routing_key):
    """Return key and text of a message that goes to an exchange."""
    message = json.loads(text)
    message["properties"]["delivery_info"] = {"exchange": exchange, "routing_key": routing_key}
    return f"{exchange}\x1f{routing_key}\x1f0", json.dumps(message)


def test_texts_arrive_unchanged_in_order(outbox, eventually):
    """What was put in is pushed as it is, in the order of the log; the queue is declared."""
    made = outbox.make(invoices(*range(1200)))
    outbox.put(*made)
    notifier = outbox.relay()
    eventually(lambda: outbox.redis.llen("celery") == 1200)
    assert outbox.texts() == [text for _, text in made]
    assert outbox.redis.smembers("_kombu.binding.celery")
    (name,) = {one.name for one in notifier.status().dispatchers}
    assert name == "OutboxDispatcher"
    relayed = {"shop.invoice": 1200}  # it counts them once Redis has answered
    eventually(lambda: notifier.status().dispatchers[0].details["relayed"] == relayed)


def test_queues_and_priorities(outbox, eventually):
    """Each message gets to the list that kombu would have pushed it to."""

    def publish(app):
        app.tasks["shop.ship"].delay(1)
        app.tasks["shop.invoice"].apply_async((2,), priority=9, queue="fast")

    outbox.put(*outbox.make(publish))
    outbox.relay()
    eventually(lambda: outbox.redis.exists("low\x06\x163", "fast\x06\x169") == 2)
    assert outbox.tasks("low\x06\x163") == ["shop.ship"]


def test_rates_of_queues(outbox, eventually, monkeypatch):
    """While a relay runs, it is known how many messages a second it sends to each queue."""
    monkeypatch.setattr(upkeep, "FIGURES_PAUSE", 0.2)
    monkeypatch.setattr(upkeep, "READER_PAUSE", 0.2)

    def publish(app):
        for number in range(30):
            app.tasks["shop.ship"].apply_async((number,), priority=number % 3)
        app.tasks["shop.invoice"].delay(1)

    made = outbox.make(publish)
    notifier = outbox.relay()

    def find_rates():
        outbox.put(*made)
        (found,) = outboxes(outbox.log.connection)
        rates = {one.queue: one.rate for one in found.queues}
        # The rate of all was read earlier, so the relay may have noted others since.
        is_whole = found.rate and sum(rates.values()) == pytest.approx(found.rate)
        return is_whole and rates.keys() == {"low", "celery"} and rates

    rates = eventually(find_rates)
    assert rates["low"] > rates["celery"] > 0
    notifier.stop()
    eventually(lambda: {one.rate for one in outboxes(outbox.log.connection)[0].queues} <= {None})


def test_exchanges(outbox, eventually):
    """A message for an exchange gets to each queue that is bound to it, also to a later one."""
    topics = Exchange("topics", type="topic")
    queues = [Queue("eu", topics, routing_key="eu.#"), Queue("all", topics, routing_key="#")]
    conf = {"task_queues": [*queues, Queue("celery")], "task_default_queue": "celery"}

    key, text = send_to(outbox.make(invoices(1))[0][1], "topics", "eu.fr")
    outbox.put((key, text))
    outbox.relay(make_app(outbox.url, **conf))
    eventually(lambda: outbox.texts("eu") == outbox.texts("all") == [text])
    for name in ("eu", "all"):  # a worker that is started later binds another queue
        outbox.redis.delete(name)
    binding = ["eu.fr", "^eu\\.fr$", "later"]
    outbox.redis.sadd("_kombu.binding.topics", "\x06\x16".join(binding))
    outbox.put((key, text))
    eventually(lambda: outbox.texts("later") == outbox.texts("all") == [text])


def test_a_fanout(outbox, eventually):
    """A message for a Broadcast is published to all workers that listen at that moment."""
    conf = {"task_queues": [Broadcast("news"), Queue("celery")], "task_default_queue": "celery"}
    app = make_app(outbox.url, **conf)
    key = app.amqp.queues["news"].routing_key
    made = send_to(outbox.make(invoices(1))[0][1], "news", key)
    with app.connection_for_read() as connection:
        queue = app.amqp.queues["news"].bind(connection.default_channel)
        queue.declare()
        got = []
        queue.consume(callback=got.append, no_ack=True)

        def drain():
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.1)
            return True

        eventually(lambda: drain() and outbox.redis.pubsub_numpat())
        outbox.put(made)
        outbox.relay(app)
        eventually(lambda: drain() and got)


def test_events(outbox, eventually):
    """Events of tasks reach the monitors that watch, and get lost if there are none."""
    app = make_app(outbox.url, task_send_sent_event=True)
    made = capture(app, invoices(1))
    assert len(made) == 2
    outbox.put(*made)
    outbox.relay()
    eventually(lambda: outbox.redis.llen("celery") == 1)
    with outbox.redis.pubsub() as monitor:
        monitor.psubscribe("*celeryev*")
        eventually(outbox.redis.pubsub_numpat)
        outbox.put(*made)
        eventually(lambda: "task.sent" in str(monitor.get_message(timeout=0.1)))
    eventually(lambda: outbox.redis.llen("celery") == 2)
    assert outbox.dead() == []


def test_what_is_refused_for_good(outbox, eventually, caplog):
    """What can't be read, and what the broker refuses, is set aside; the rest goes on."""
    caplog.set_level(logging.CRITICAL)
    outbox.redis.set("broken", "no list")
    good = outbox.make(invoices(1, 2, 3))
    broken = outbox.make(lambda app: app.tasks["shop.invoice"].apply_async((4,), queue="broken"))
    outbox.put(
        good[0],
        (None, "no JSON {"),
        ("", json.dumps({"body": "x"})),
        *broken,
        good[1],
        send_to(good[0][1], "nowhere", "celery"),
        good[2],
    )
    outbox.relay()
    eventually(lambda: outbox.redis.llen("celery") == 3 and len(outbox.dead()) == 4)
    assert outbox.texts() == [text for _, text in good]
    reasons = outbox.dead()
    assert sum("MessageFormatError" in one for one in reasons) == 2
    assert any("WRONGTYPE" in one for one in reasons)
    assert any("no queue is bound to the exchange 'nowhere'" in one for one in reasons)


def test_a_message_that_is_too_large(outbox, eventually, caplog):
    """A text that Redis won't accept is set aside before it is sent."""
    caplog.set_level(logging.CRITICAL)
    made = outbox.make(lambda app: app.tasks["shop.invoice"].delay("x" * (1 << 20)))
    outbox.redis.config_set("proto-max-bulk-len", 1 << 20)
    outbox.put(*made, *outbox.make(invoices(1)))
    outbox.relay()
    eventually(lambda: outbox.redis.llen("celery") == 1 and len(outbox.dead()) == 1)
    assert "the broker accepts 1,048,576" in outbox.dead()[0]


def test_requests_of_sql(outbox, eventually, caplog):
    """SQL asks for a task by name; the app makes the message, with that id and its own routes."""
    caplog.set_level(logging.CRITICAL)
    outbox.ask(task="shop.invoice", id="one", args=[7], kwargs={"copies": 2}, headers={"by": "sql"})
    outbox.ask(task="shop.ship", id="two", args=[8], eta="2026-01-01T00:00:00+00:00")
    outbox.ask(task="shop.unknown", id="three")
    outbox.ask(task="celery.backend_cleanup", id="four")
    outbox.ask(task="shop.invoice", id="five", args=[], kwargs={"card": "4111"})
    outbox.ask(task="shop.invoice", id="six", args=[1], headers={"task": "shop.ship"})
    outbox.ask(task="shop.invoice", id="seven", args="no list")
    outbox.ask(task="shop.invoice", id="eight", args=[2], que="typo")
    typed = {"a": [{"__type__": "uuid", "__value__": "x"}]}
    outbox.ask(task="shop.invoice", id="nine", args=[3], headers=typed)
    nested = json.loads("[" * 40 + "]" * 40)
    outbox.ask(task="shop.invoice", id="ten", args=[4], headers={"a": nested})
    outbox.relay()
    eventually(lambda: outbox.redis.exists("low\x06\x163") and len(outbox.dead()) == 8)
    (text,) = outbox.texts()
    headers = json.loads(text)["headers"]
    assert (headers["id"], headers["by"], headers["argsrepr"]) == ("one", "sql", "[7]")
    (text,) = outbox.texts("low\x06\x163")
    assert json.loads(text)["headers"]["eta"].startswith("2026-01-01T00:00:00")
    reasons = outbox.dead()
    assert "the app 'shop' has no task 'shop.unknown'" in reasons[0]
    assert "is a task of Celery's own" in reasons[1]
    assert "TypeError" in reasons[2]
    assert "the header 'task' is one that Celery makes" in reasons[3]
    assert "Expected `array`, got `str` - at `$.args`" in reasons[4]
    assert "unknown field `que`" in reasons[5]
    assert all("a worker that can't read it would end" in one for one in reasons[6:])
    assert not any("4111" in one for one in reasons)


def test_patterns_of_what_sql_may_ask_for(outbox, eventually, caplog):
    """With allow=, names must match one of the patterns, registered or not."""
    caplog.set_level(logging.CRITICAL)
    outbox.ask(task="billing.charge", id="one", args=[7], queue="billing")
    outbox.ask(task="shop.invoice", id="two", args=[7])
    outbox.relay(allow=["billing.*"])
    eventually(lambda: outbox.tasks("billing") == ["billing.charge"] and len(outbox.dead()) == 1)
    assert "'shop.invoice' matches no pattern in allow=" in outbox.dead()[0]


def test_a_repeated_entry_is_the_same_message(outbox, eventually):
    """If an entry is sent again, task id and delivery tag are the same, also for SQL's."""
    outbox.put(*outbox.make(invoices(1)))
    outbox.ask(task="shop.invoice", args=[2])
    notifier = outbox.relay()
    eventually(lambda: outbox.redis.llen("celery") == 2)
    notifier.seek(ID, CHANNEL, "oldest")
    eventually(lambda: outbox.redis.llen("celery") == 4)
    messages = [json.loads(text) for text in outbox.texts()]
    assert [one["headers"]["id"] for one in messages[:2]] == [
        one["headers"]["id"] for one in messages[2:]
    ]
    assert outbox.texts()[0] == outbox.texts()[2]


def test_a_second_app_is_refused(outbox, eventually):
    """Two apps would send everything twice, so the later one doesn't start, and says why."""
    notifier = outbox.relay()
    eventually(lambda: notifier.find_durable(CHANNEL) == [ID])
    other = Celery("web", broker=outbox.url, set_as_current=False)
    with pytest.raises(ConfigurationError, match="is relayed by the app 'shop' already") as caught:
        outbox.relay(other)
    assert "pgnotifier positions forget 'outbox:celery:shop'" in str(caught.value)
    outbox.relay()  # another replica of the same app


def test_the_app_knows_its_relay(outbox):
    """The app's commands find the notifier of a relay, and list the outbox."""
    app = make_app(outbox.url)
    notifier = CeleryNotifier(app, db_conf=outbox.log.dsn)
    dispatcher = OutboxDispatcher(app)
    dispatcher.relay_to(notifier)
    assert notifiers_of(app) == [notifier]
    assert notifier.get_channels() == {CHANNEL}
    ((key, row),) = dispatcher.inventory().items()
    assert key == (ID, CHANNEL)
    assert row.path == "relayed"
    with pytest.raises(ConfigurationError, match="only delivers what relay_to"):
        notifier.subscribe("other", "orders", print, dispatcher=dispatcher)


def test_the_app_keeps_the_notifier_of_its_relay(outbox):
    """A module may keep the outbox alone: the app keeps the notifier, as long as that relays."""
    app = make_app(outbox.url)
    kept = CeleryNotifier(app, db_conf=outbox.log.dsn).outbox
    gc.collect()
    (notifier,) = notifiers_of(app)
    assert notifier.outbox is kept
    notifier.unsubscribe(kept.subscription, kept.channel)
    del notifier
    gc.collect()
    assert notifiers_of(app) == []


def test_a_broker_that_is_down(outbox, pgnotifier_private_valkey, eventually, caplog):
    """Everything waits, in order, and is sent once the broker is back."""
    caplog.set_level(logging.CRITICAL)
    made = outbox.make(invoices(*range(30)))
    outbox.put(*made[:10])
    notifier = outbox.relay()
    eventually(lambda: outbox.redis.llen("celery") == 10)
    outbox.redis.delete("celery")
    pgnotifier_private_valkey.stop()
    outbox.put(*made[10:20])
    eventually(lambda: any(one.retrying for one in notifier.status().dispatchers))
    outbox.put(*made[20:])
    pgnotifier_private_valkey.start()
    eventually(lambda: outbox.redis.llen("celery") == 20)
    assert outbox.texts() == [text for _, text in made[10:]]
    assert outbox.dead() == []


def test_from_a_transaction_to_a_worker_queue(outbox, eventually):
    """What is enqueued in a transaction, by Celery or by SQL, is sent once it has committed."""
    app = make_app(outbox.url)
    notifier = CeleryNotifier(app, db_conf=outbox.log.dsn)
    invoice = app.tasks["shop.invoice"]
    with psycopg.connect(outbox.log.dsn) as connection:
        with notifier.outbox(connection):
            first = invoice.delay(1)
            chain(invoice.si(2), invoice.si(3)).apply_async(countdown=60)
        ask = "SELECT pgnotifier.enqueue('shop.ship', args => '[4]', countdown => '1 minute')"
        ((ship,),) = connection.execute(ask)
        with pytest.raises(ZeroDivisionError), connection.transaction():
            with notifier.outbox(connection):
                invoice.delay(5)
            raise ZeroDivisionError
    with notifier:
        notifier.start()
        eventually(lambda: outbox.redis.llen("celery") == 2 and outbox.texts("low\x06\x163"))
        sent = [json.loads(text)["headers"] for text in outbox.texts()]
        assert [one["id"] for one in sent][:1] == [first.id]
        assert [one["argsrepr"] for one in sent] == ["(1,)", "(2,)"]
        (text,) = outbox.texts("low\x06\x163")
        assert json.loads(text)["headers"]["id"] == str(ship)
    assert outbox.dead() == []


def test_the_relay_is_never_captured(outbox, eventually):
    """An outbox that captures all that the app publishes doesn't capture what a relay sends."""
    app = make_app(outbox.url)
    Capture.of(app).finders.append(lambda: pytest.fail("the relay was captured"))
    outbox.ask(task="shop.invoice", id="one", args=[7])
    outbox.relay(app)
    eventually(lambda: outbox.tasks() == ["shop.invoice"])
