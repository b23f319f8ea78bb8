"""A state machine that does at random what can happen to the log, and compares it with a model.

It reads as a source does, with the same sessions and the same progress of each subscription. But
nothing runs in threads: what a dispatcher would do is a step of the machine.
"""

import contextlib
import itertools
from dataclasses import dataclass, field

import psycopg
from copying import dump, restore
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from log_model import MAX_ATTEMPTS, Entry, Expected

from pgnotifier import InlineDispatcher, Subscription
from pgnotifier._connection.parameters import Parameters
from pgnotifier._durable.log_session import LogSession
from pgnotifier._durable.progress import Progress
from pgnotifier._durable.reading import Sizes
from pgnotifier._log import guard, positions
from pgnotifier._log.dead_letters import find_letters, retry_letters
from pgnotifier.dispatch import Binding, Delivery
from pgnotifier.durability import Durability
from pgnotifier.durable import install

CHANNELS = ("paid", "sent")
LONGEST_DRAIN = 1000
SIZES = Sizes(batch=3, unsynced=1, at_once=5)
"""So that a few entries are several batches, and some are read ahead."""
WHICH = st.integers(0, 5)
"""Which transaction, subscription or replica of the existing ones."""
_INSERT = (
    "INSERT INTO pgnotifier.log (snap, channel, payload)"
    " VALUES (CASE WHEN %s THEN pgnotifier.snapshot() END, %s, %s) RETURNING id, at"
)


class Shop:
    """A database with the log, on one of two servers; restoring a dump goes to the other one."""

    def __init__(self, servers):
        self._servers = itertools.cycle(servers)
        self._idle = []
        self._open_new()
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            install(connection)
        self._set_up()

    def _open_new(self):
        self.dsn = next(self._servers).create_database()

    def _set_up(self):
        self.admin = psycopg.connect(self.dsn, autocommit=True)

    def lend(self):
        """Return a connection that isn't in a transaction."""
        return self._idle.pop() if self._idle else psycopg.connect(self.dsn)

    def give_back(self, connection):
        """Take it back."""
        self._idle.append(connection)

    def move(self):
        """Restore a dump of it on the other server, and go on there."""
        dumped = dump(self.dsn)
        self.close()
        self._open_new()
        restore(dumped, self.dsn)
        self._set_up()

    def empty(self):
        """Delete all entries and subscriptions."""
        self.admin.execute("DELETE FROM pgnotifier.subscription")
        self.admin.execute("TRUNCATE pgnotifier.log")
        self.admin.execute("SELECT pgnotifier.settle()")

    def value(self, query, *values):
        """Return what a query returns."""
        return self.admin.execute(query, values).fetchone()[0]

    def close(self):
        """Close all connections."""
        for one in (*self._idle, self.admin):
            one.close()
        self._idle.clear()


class Transaction:
    """A publisher's transaction, with what it has published at each level of savepoints."""

    def __init__(self, connection):
        self.connection = connection
        self.levels = [[]]

    @property
    def published(self):
        """What will be committed."""
        return [entry for level in self.levels for entry in level]


@dataclass(eq=False)
class Reading:
    """One subscription, as one replica reads it.

    Attributes:
        expected: What it must get.
        binding: The binding of the replica.
        progress: What is tested.
        held: Items that the dispatcher has, in order.
        flow: The entries that were handed over together, and whether they have succeeded; None
            for those that aren't settled.
        moves: How often the position had moved when these were handed over.
    """

    expected: Expected
    binding: Binding
    progress: Progress
    held: list = field(default_factory=list)
    flow: dict = field(default_factory=dict)
    moves: int = 0


class Replica:
    """A process that reads: a session, and the progress of each subscription."""

    def __init__(self, dsn):
        self._dsn = dsn
        self.readings = {}
        self.connect()

    def connect(self):
        """Have another session."""
        self.session = LogSession(Parameters(self._dsn).connect())
        self.session.prepare()

    def crash(self):
        """Lose everything."""
        self.session.connection.close()
        self.readings.clear()


def pick(which, things):
    """Return one of them."""
    return things[which % len(things)]


has_transactions = precondition(lambda self: self.open)
has_subscriptions = precondition(lambda self: self.known)
has_readings = precondition(lambda self: self.known and self.running)


class LogMachine(RuleBasedStateMachine):
    """What can happen. `shop` is set by the test."""

    shop: Shop
    restores_often = False

    def __init__(self):
        super().__init__()
        self.now = 0
        self.entries = {}
        self.known = {}  # the subscriptions that exist, by name and channel
        self.running = []
        self.open = []
        self.moments = []
        self.is_copied = False
        self.has_moved = False
        self.numbers = itertools.count(1)

    def teardown(self):
        try:
            for one in list(self.open):
                self._end(one, commits=False)
            self._drain()
        finally:
            for one in self.running:
                one.crash()
            self.shop.empty()

    # --- publishing ---

    @precondition(lambda self: len(self.open) < 3)
    @rule(isolation=st.sampled_from(["READ COMMITTED", "REPEATABLE READ"]))
    def begin(self, isolation):
        transaction = Transaction(self.shop.lend())
        transaction.connection.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}".encode())
        transaction.connection.execute("SELECT pg_current_xact_id()")
        self.open.append(transaction)

    @has_transactions
    @rule(which=WHICH, channel=st.sampled_from(CHANNELS), ticks=st.booleans())
    def publish(self, which, channel, ticks):
        self._publish(pick(which, self.open), channel, ticks)

    @rule(channel=st.sampled_from(CHANNELS), count=st.integers(1, 3), ticks=st.booleans())
    def publish_and_commit(self, channel, count, ticks):
        transaction = Transaction(self.shop.lend())
        self.open.append(transaction)
        for _ in range(count):
            self._publish(transaction, channel, ticks)
        self._end(transaction, commits=True)

    @has_transactions
    @rule(which=WHICH, begins=st.booleans())
    def begin_a_savepoint_or_roll_back_to_it(self, which, begins):
        transaction = pick(which, self.open)
        if begins and len(transaction.levels) < 3:
            transaction.connection.execute(f"SAVEPOINT s{len(transaction.levels)}".encode())
            transaction.levels.append([])
        elif not begins and len(transaction.levels) > 1:
            transaction.levels.pop()
            name = f"s{len(transaction.levels)}"
            transaction.connection.execute(
                f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}".encode()
            )

    @has_transactions
    @rule(which=WHICH, commits=st.sampled_from([True, True, False]))
    def end(self, which, commits):
        self._end(pick(which, self.open), commits=commits)

    def _publish(self, transaction, channel, ticks):
        transaction.levels[-1].append(self._insert(transaction.connection, channel, ticks))

    def _insert(self, connection, channel, ticks):
        payload = next(self.numbers)
        self.now += 1
        found = connection.execute(_INSERT, (ticks, channel, str(payload))).fetchone()
        self.entries[payload] = entry = Entry(payload, channel, *found, called=self.now)
        return entry

    def _end(self, transaction, *, commits):
        self.open.remove(transaction)
        if commits:
            transaction.connection.commit()
            self.now += 1
            for entry in transaction.published:
                entry.committed = self.now
                for one in self.known.values():
                    one.commit(entry)
                    if self.is_copied and entry.payload in one.required:
                        one.aside.add(entry.payload)  # until the copy is repaired
        else:
            transaction.connection.rollback()
        self.shop.give_back(transaction.connection)

    # --- subscriptions ---

    @initialize(start=st.sampled_from(["now", "oldest"]))
    def start_with_a_subscription(self, start):
        self._subscribe("a", "paid", start, "dead_letter", self.shop.admin)
        self._start_replica()

    @precondition(lambda self: len(self.known) < 3)
    @rule(
        which=WHICH,
        start=st.sampled_from(["now", "oldest"]),
        on_failure=st.sampled_from(["dead_letter", "stop"]),
        publishes=st.booleans(),
    )
    def subscribe(self, which, start, on_failure, publishes):
        names = [one for one in itertools.product("ab", CHANNELS) if one not in self.known]
        name, channel = pick(which, names)
        if publishes and not self.is_copied:  # in the same transaction, before and after
            transaction = Transaction(self.shop.lend())
            self.open.append(transaction)
            self._publish(transaction, channel, ticks=False)
            self._subscribe(name, channel, start, on_failure, transaction.connection)
            self._publish(transaction, channel, ticks=True)
            self._end(transaction, commits=True)
        else:
            self._subscribe(name, channel, start, on_failure, self.shop.admin)
        for replica in self.running:
            self._read_it(replica, self.known[name, channel])

    @has_subscriptions
    @rule(which=WHICH, place=st.integers(0, 15))
    def seek_or_forget(self, which, place):
        subscription = pick(which, [*self.known.values()])
        if place == 15:
            self._forget(subscription)
            return
        kept = self._kept(subscription.channel)
        places = ["now", "oldest", *sorted(self.entries[one].id for one in kept), *self.moments]
        to = pick(place, places)
        assert positions.seek(self.shop.admin, subscription.name, subscription.channel, to)
        self.is_copied = False  # that has repaired it
        self._go(subscription, to, kept)

    def _forget(self, subscription):
        del self.known[subscription.name, subscription.channel]
        assert positions.forget(self.shop.admin, subscription.name, subscription.channel)
        for replica in self.running:
            replica.readings.pop(subscription, None)

    def _subscribe(self, name, channel, start, on_failure, connection):
        subscription = Expected(name, channel, on_failure)
        kept = self._kept(channel)
        LogSession(connection).subscribe(name, channel, start)
        self.is_copied = False
        self._go(subscription, start, kept)
        self.known[name, channel] = subscription

    def _go(self, subscription, place, kept):
        """Expect what comes from a place on, given what the log has of the channel."""
        if place == "now":
            subscription.start(set(), set())
        elif place == "oldest":
            subscription.start(kept, set())
        elif isinstance(place, int):
            subscription.start({one for one in kept if self.entries[one].id >= place}, kept)
        else:
            subscription.start({one for one in kept if self.entries[one].at >= place}, kept)

    def _kept(self, channel):
        """Return the payloads that the log still has of a channel."""
        found = self.shop.admin.execute(
            "SELECT payload FROM pgnotifier.log WHERE channel = %s", (channel,)
        )
        return {int(payload) for (payload,) in found}

    # --- reading ---

    @has_readings
    @rule(which=WHICH, who=WHICH)
    def visit(self, which, who):
        self._visit(*self._pick(which, who))

    @has_readings
    @rule(which=WHICH, who=WHICH, at=st.integers(0, 2), succeeds=st.booleans())
    def settle_one(self, which, who, at, succeeds):
        replica, subscription = self._pick(which, who)
        reading = replica.readings[subscription]
        if reading.held:
            self._settle(reading, at % len(reading.held), has_succeeded=succeeds)

    @has_readings
    @rule(who=WHICH, saves=st.booleans())
    def read_and_deliver_all(self, who, saves):
        replica = pick(who, self.running)
        for subscription, reading in replica.readings.items():
            self._visit(replica, subscription)
            while reading.held:
                self._settle(reading, 0, has_succeeded=True)
            if saves:
                self._visit(replica, subscription)

    @has_readings
    @rule(which=WHICH, who=WHICH, what=st.sampled_from(["drop", "mute", "unmute"]))
    def drop_or_mute(self, which, who, what):
        """Lose what the dispatcher has; perhaps because it is muted."""
        replica, subscription = self._pick(which, who)
        reading = replica.readings[subscription]
        if what != "drop":
            reading.binding.live = what == "unmute"
            reading.binding.mutes += 1
        reading.held.clear()

    @rule(who=WHICH, what=st.sampled_from(["start", "start", "lose the session", "stop", "crash"]))
    def change_a_replica(self, who, what):
        if what == "start" or not self.running:
            if len(self.running) < 3:
                self._start_replica()
            return
        replica = pick(who, self.running)
        if what == "stop":
            self._stop(replica)
        elif what == "crash":
            self.running.remove(replica)
            replica.crash()
        else:  # the process goes on with what is under way
            replica.session.connection.close()
            for one in replica.readings.values():
                one.progress.disconnect()
            replica.connect()

    @rule(of_dead=st.booleans())
    def make_retries_due(self, of_dead):
        self.shop.admin.execute("UPDATE pgnotifier.failed SET retry_at = now() WHERE NOT dead")
        if of_dead:
            retry_letters(self.shop.admin, [one.n for one in find_letters(self.shop.admin)])

    def _pick(self, which, who):
        """Return a replica and a subscription."""
        return pick(who, self.running), pick(which, [*self.known.values()])

    def _start_replica(self):
        replica = Replica(self.shop.dsn)
        self.running.append(replica)
        for one in self.known.values():
            self._read_it(replica, one)
        return replica

    def _read_it(self, replica, subscription):
        durability = Durability(max_attempts=MAX_ATTEMPTS, on_failure=subscription.on_failure)
        given = Subscription(
            subscription.name, subscription.channel, print, InlineDispatcher(),
            durability=durability,
        )  # fmt: skip
        binding = Binding(given, None, lambda *_: None)
        progress = Progress(
            binding,
            lambda items: self._take(reading, items),
            on_settled=lambda: None,
            report_dropped=lambda *_: None,
            sizes=SIZES,
        )
        reading = Reading(subscription, binding, progress)
        progress.become(
            positions.subscribe(replica.session.connection, subscription.name, subscription.channel)
        )
        replica.readings[subscription] = reading

    def _take(self, reading, items):
        batch = [int(one.data) for one in items]
        reading.expected.hand_over(batch, self.entries)
        reading.held.extend(items)
        if all(reading.expected.is_beside(one) for one in batch):
            return
        reading.flow = dict.fromkeys(batch)
        reading.moves = reading.expected.moves

    def _settle(self, reading, at, *, has_succeeded):
        item = reading.held.pop(at)
        delivery = Delivery(reading.binding, item.arrival(None))
        payload = int(item.data)
        if payload in reading.flow:
            reading.flow[payload] = has_succeeded
        if has_succeeded:
            delivery.settle()
            reading.expected.done.add(payload)
        else:
            delivery.report(ValueError("no"))
            reading.expected.failures[payload] += 1

    def _visit(self, replica, subscription):
        """Have the progress of a subscription do its next step; return whether it goes on."""
        reading = replica.readings[subscription]
        if not any(int(one.data) in reading.flow for one in reading.held):
            self._note_saved(reading)
        goes_on = reading.progress.visit(replica.session)
        if self.is_copied:
            native = "SELECT bool_and(pgnotifier.is_native(sub, n)) FROM pgnotifier.positions"
            self.is_copied = not self.shop.value(native)
        return goes_on

    def _note_saved(self, reading):
        """Note what is behind the position, as all in the flow is settled or lost, or it stops."""
        settled = [*itertools.takewhile(lambda one: one[1] is not None, reading.flow.items())]
        expected = reading.expected
        holds = expected.on_failure == "stop" and not all(ok for _, ok in settled)
        if settled and not holds and reading.moves == expected.moves:
            expected.save(settled)
        reading.flow.clear()

    def _stop(self, replica):
        self.running.remove(replica)
        for reading in replica.readings.values():
            self._note_saved(reading)
            reading.progress.end(replica.session)
        replica.crash()

    # --- the log ---

    @rule(looks=st.booleans())
    def give_space_back(self, looks):
        """Truncate what can be truncated: nothing that a subscription hasn't got."""
        if looks:  # a new replica saves at once that there is nothing to deliver, and others later
            replica = self._start_replica()
            for one in self.known.values():
                self._visit(replica, one)
            self._stop(replica)
        for _ in range(2):  # the second time truncates the slot that the first one has left
            self.shop.admin.execute("SELECT pgnotifier.reclaim('0', 1)")
        for one in self.known.values():
            assert one.undelivered <= self._kept(one.channel), "truncated what wasn't delivered"

    @rule(alarms=st.booleans())
    def note_the_time_or_raise_a_false_alarm(self, alarms):
        if alarms:
            assert guard.reanchor(self.shop.admin)
            self.is_copied = False
        else:
            self.moments.append(self.shop.value("SELECT clock_timestamp()"))

    @precondition(lambda self: not self.has_moved)
    @rule(luck=st.integers(0, 5))
    def restore_a_dump(self, luck):
        """Move to another server. Publishers and readers are stopped, as they should be."""
        if luck and not self.restores_often:
            return
        self.has_moved = self.is_copied = True
        for one in list(self.open):
            self._end(one, commits=False)
        for one in list(self.running):
            self._stop(one)
        self.shop.move()
        for one in self.known.values():
            one.aside |= one.left
            one.moves += 1
        self.moments.clear()

    # --- the end ---

    def _drain(self):
        """Deliver all that is left, with new replicas: each subscription must get everything."""
        for one in list(self.running):
            self._stop(one)
        for _ in range(LONGEST_DRAIN):
            self.make_retries_due(of_dead=False)
            replica = self._start_replica()
            found = [self._deliver(replica, one) for one in self.known.values()]
            self._stop(replica)
            if not any(found) and not (self.is_copied and self.known):
                break
        for one in self.known.values():
            dead = {int(each.payload) for each in self._letters(one)}
            assert all(one.failures[each] >= MAX_ATTEMPTS for each in dead)
            missing = one.required - one.done - dead
            assert not missing, f"{one.name} on {one.channel} has not got {missing}"

    def _deliver(self, replica, subscription):
        """Deliver until there is nothing more; return whether there was something."""
        reading, found = replica.readings[subscription], False
        for _ in range(LONGEST_DRAIN):
            goes_on = self._visit(replica, subscription)
            if not (goes_on or reading.held):
                return found
            found = found or bool(reading.held)
            while reading.held:
                self._settle(reading, 0, has_succeeded=True)
        raise AssertionError("it never ends")

    def _letters(self, subscription):
        with contextlib.closing(psycopg.connect(self.shop.dsn)) as connection:
            return find_letters(
                connection, name=subscription.name, channel=subscription.channel, everything=True
            )
