"""News: of many subscriptions, only those are visited that have something to read."""

import contextlib
import random
import threading
import time
from collections import Counter

import psycopg
import pytest

from pgnotifier import InlineDispatcher
from pgnotifier._connection.parameters import Parameters
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.news import MANY, find_news
from pgnotifier._durable.pace import IDLE_SAVE_PAUSE
from pgnotifier._durable.progress import Progress
from pgnotifier._durable.rows import Place
from pgnotifier.dispatch import Binding, Delivery, Subscription
from pgnotifier.durability import Durability
from pgnotifier.durable import install
from pgnotifier.errors import NotListeningError

PLACES = 8


class Reader:
    """A session with subscriptions `0` to `7` on channels of these names, which are caught up."""

    def __init__(self, dsn, session):
        self.session = session
        self.dsn = dsn
        self.items = []
        self.progress = []
        for name in map(str, range(PLACES)):
            given = Subscription(name, name, print, InlineDispatcher(), durability=Durability())
            binding = Binding(given, None, lambda *_: None)
            one = Progress(binding, self.items.extend, lambda: None, lambda *_: None)
            one.become(session.subscribe(name, name, "now"))
            self.progress.append(one)

    def catch_up(self):
        """Visit all until there is nothing to deliver; return what was delivered."""
        found, is_done = [], False
        while not is_done:
            for one in self.progress:
                one.visit(self.session)
            is_done = not self.items and all(one.is_caught_up for one in self.progress)
            while self.items:
                item = self.items.pop(0)
                Delivery(item.bindings[0], item.arrival(None)).settle()
                found.append(item.channel)
        return sorted(found)

    def find(self):
        """Return the channels of the subscriptions that are to be visited."""
        return sorted(
            one.binding.subscription.channel for one in find_news(self.session, self.progress)
        )


@pytest.fixture
def reader(log):
    """Yield a reader that is caught up."""
    with Parameters(log.dsn).connect() as connection:
        session = LogSession(connection)
        session.prepare()
        reader = Reader(log.dsn, session)
        assert reader.catch_up() == []
        yield reader


def publish(connection, *channels):
    """Publish an entry on each channel."""
    for channel in channels:
        connection.execute("SELECT pgnotifier.publish(%s, '1')", (channel,))


def test_published(log, reader):
    """Those with something new on their channel are visited."""
    assert reader.find() == []
    log.publish("3", 1)
    log.publish("elsewhere", 1)
    assert reader.find() == ["3"]
    assert reader.find() == ["3"]
    assert reader.catch_up() == ["3"]
    assert reader.find() == []


def test_transactions_that_were_open(log, reader):
    """What is committed after others have been looked for is found; what is rolled back isn't."""
    with psycopg.connect(log.dsn) as open_one, psycopg.connect(log.dsn) as undone:
        publish(open_one, "1", "elsewhere")
        publish(undone, "2")
        log.publish("4", 1)
        assert reader.find() == ["4"]
        assert reader.catch_up() == ["4"]
        undone.rollback()
        assert reader.find() == []
        open_one.commit()
        assert reader.find() == ["1"]
        assert reader.catch_up() == ["1"]


def test_positions_that_are_moved(log, reader):
    """A subscription that goes back, or was forgotten, is visited."""
    log.publish("5", 1)
    assert reader.catch_up() == ["5"]
    log.execute("SELECT pgnotifier.seek('5', '5', 'oldest')")
    assert reader.find() == ["5"]
    assert reader.catch_up() == ["5"]
    log.execute("SELECT pgnotifier.forget('6', '6')")
    assert reader.find() == ["6"]


def test_what_has_failed(log, reader):
    """Subscriptions with something to retry are visited, whether or not it is due by now."""
    (number,) = log.publish("2", 1)
    reader.catch_up()
    log.execute(
        "SELECT pgnotifier.fail(%s, %s, now(), '2', NULL, '1', 'no', '', 0, false)",
        reader.progress[2].sub,
        number,
    )
    assert reader.find() == ["2"]
    log.execute("UPDATE pgnotifier.failed SET dead = true")
    assert reader.find() == []


def test_more_than_a_query_looks_at(log, reader):
    """After a thousand entries, whatever they are for, all are visited."""
    log.publish_together("elsewhere", *range(999))
    assert reader.find() == []
    log.publish_together("elsewhere", *range(1000))
    assert len(reader.find()) == PLACES
    assert reader.catch_up() == []


def test_a_few(log, reader):
    """A few subscriptions are all visited: a query for them together wouldn't pay."""
    log.publish("elsewhere", 1)
    del reader.progress[MANY - 1 :]
    assert len(reader.find()) == MANY - 1


def test_space_is_given_back_after_a_quiet_time(log, reader):
    """What is passed over is visited in time to save its position, once others publish again."""
    assert reader.find() == []
    quiet = [one._pace.idle_at - time.monotonic() for one in reader.progress]
    assert min(quiet) > IDLE_SAVE_PAUSE
    log.publish("elsewhere", 1)
    assert reader.find() == []
    busy = [one._pace.idle_at - time.monotonic() for one in reader.progress]
    assert max(busy) <= IDLE_SAVE_PAUSE


def test_another_process_of_the_server(reader):
    """A pooler that has given the session to another client is noticed."""
    with Parameters(reader.dsn).connect() as other:
        reader.session.connection = other
        with pytest.raises(NotListeningError, match="pooler"):
            reader.find()


def test_another_log(log, reader):
    """If the log was replaced, nothing of it is believed."""
    log.execute("DROP SCHEMA pgnotifier CASCADE")
    install(log.connection)
    with pytest.raises(psycopg.OperationalError, match="replaced by another one"):
        reader.find()


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_passed_over(reader, seed):
    """Whatever is committed or undone, there is nothing to read for what isn't visited."""
    chance = random.Random(seed)
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(psycopg.connect(reader.dsn)) for _ in range(5)]
        committed, delivered = Counter(), Counter()
        written = {writer: [] for writer in writers}
        for _ in range(150):
            writer = chance.choice(writers)
            step = chance.choice(["publish", "publish", "end", "look", "read"])
            if step == "publish":
                channel = str(chance.randrange(PLACES + 2))
                publish(writer, channel)
                written[writer].append(channel)
            elif step == "end" and chance.random() < 0.7:
                writer.commit()
                committed.update(written[writer])
                written[writer].clear()
            elif step == "end":
                writer.rollback()
                written[writer].clear()
            else:
                before = {
                    one.binding.subscription.channel: (
                        one.reading.bookmark.known,
                        one.reading.bookmark.ahead,
                    )
                    for one in reader.progress
                }
                quiet = before.keys() - set(reader.find())
                for channel in quiet:
                    one = reader.progress[int(channel)]
                    known, ahead = before[channel]
                    fetched = reader.session.advance(one.sub, known, Place(ahead), 9, keep=False)
                    assert fetched.rows == []
                if step == "read":
                    delivered.update(reader.catch_up())
        for writer in writers:
            writer.commit()
            committed.update(written[writer])
        delivered.update(reader.catch_up())
    assert delivered == {one: count for one, count in committed.items() if int(one) < PLACES}


def test_many_subscriptions(log, make_notifier, eventually):
    """Thirty subscriptions get all that was committed while several transactions are open."""
    got, expected, lock = Counter(), Counter(), threading.Lock()
    notifier = make_notifier(log.dsn, dispatcher=InlineDispatcher())
    for name in map(str, range(30)):
        notifier.subscribe(name, name, lambda name, *_: got.update([name]), durable=True)
    notifier.start()

    def write(seed):
        chance = random.Random(seed)
        with psycopg.connect(log.dsn) as connection:
            for _ in range(40):
                channels = [str(chance.randrange(32)) for _ in range(chance.randrange(4))]
                publish(connection, *channels)
                connection.execute("SELECT pg_sleep(%s)", (chance.random() * 0.05,))
                if chance.random() < 0.8:
                    connection.commit()
                    with lock:
                        expected.update(one for one in channels if int(one) < 30)
                else:
                    connection.rollback()

    threads = [threading.Thread(target=write, args=[seed]) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: got == expected)
