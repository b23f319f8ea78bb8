"""Batches and debounces, with times that the tests set."""

import tracemalloc

import pytest

from pgnotifier import ArgumentTypeError, ConfigurationError, Delivery, Notification, Subscription
from pgnotifier._delivery.batching import Gatherer
from pgnotifier.dispatch import Binding
from pgnotifier.gathering import Batch, Debounce, check_gathering


class Bench:
    """A gatherer, and a list of what it has returned."""

    def __init__(self, limit=1000, max_size=10_000):
        self.gatherer = Gatherer(limit, max_size)
        self.out = []

    def bind(self, id="a", **given):
        gathering = check_gathering(id, given.get("batch"), given.get("debounce"), given.get("key"))
        subscription = Subscription(id, "ch", print, None, gathering=gathering)
        return Binding(subscription, print, None)

    def add(self, binding, *payloads, at=0.0):
        for payload in payloads:
            arrived = Notification("ch", payload, str(payload), len(self.out), at)
            self._note(self.gatherer.add(Delivery(binding, arrived), at))

    def pass_time(self, now):
        self._note(self.gatherer.take_due(now))

    def end(self):
        self._note(self.gatherer.take_all())

    def _note(self, deliveries):
        self.out += [(d.binding.id, d.notification.payload) for d in deliveries]


@pytest.fixture
def bench():
    """Return a bench."""
    return Bench()


def test_a_batch_that_is_full(bench):
    """A full batch is delivered at once, and the next one begins."""
    binding = bench.bind(batch=(3, 10))
    bench.add(binding, *range(7))
    assert bench.out == [("a", [0, 1, 2]), ("a", [3, 4, 5])]
    assert bench.gatherer.waiting == 1


def test_a_batch_that_is_old(bench):
    """A batch is delivered when its first notification has waited long enough, full or not."""
    binding = bench.bind(batch=(3, 10))
    bench.add(binding, 0, at=0.0)
    bench.add(binding, 1, at=9.0)
    assert bench.gatherer.due_at == 10.0
    bench.pass_time(9.9)
    assert bench.out == []
    bench.pass_time(10.0)
    assert bench.out == [("a", [0, 1])]
    assert bench.gatherer.waiting == 0


def test_a_batch_is_not_cut_short_by_the_one_before(bench):
    """A batch after one that was full early gets its whole time."""
    binding = bench.bind(batch=(2, 10))
    for second in range(9):
        bench.add(binding, second, at=float(second))
    bench.pass_time(10.0)
    assert [payload for _, payload in bench.out] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    bench.pass_time(17.9)
    assert len(bench.out) == 4
    bench.pass_time(18.0)
    assert bench.out[4:] == [("a", [8])]
    assert bench.gatherer.due_at is None


def test_batches_keep_their_notifications(bench):
    """A batch has its notifications as parts, and the attributes of the latest one."""
    binding = bench.bind(batch=(2, 10))
    first, second = (
        Delivery(binding, Notification("ch", n, f"{n}", 100 + n, at)) for n, at in ((1, 5), (2, 6))
    )
    assert list(bench.gatherer.add(first, 0.0)) == []
    (whole,) = bench.gatherer.add(second, 0.0)
    found = whole.notification
    assert (found.payload, found.raw, found.pid, found.received_at) == ([1, 2], "2", 102, 6)
    assert found.count == 2
    assert found.parts == (first.notification, second.notification)


def test_a_storm(bench):
    """A debounce delivers the latest notification of each key after a quiet time."""
    binding = bench.bind(debounce=2, key=lambda payload: payload["id"])
    for second in range(5):
        bench.add(binding, {"id": 1, "n": second}, at=float(second))
        bench.pass_time(float(second))
    bench.add(binding, {"id": 2, "n": 9}, at=4.0)
    bench.pass_time(5.9)
    assert bench.out == []
    assert bench.gatherer.waiting == 2
    bench.pass_time(6.0)
    assert bench.out == [("a", {"id": 1, "n": 4}), ("a", {"id": 2, "n": 9})]


@pytest.mark.parametrize(("debounce", "at_most"), [(2, 20.0), ((2, 5), 5.0)])
def test_a_storm_without_end(bench, debounce, at_most):
    """Without a quiet time, it delivers after ten times the seconds, or the given maximum."""
    binding = bench.bind(debounce=debounce, key=len)
    now = 0.0
    while not bench.out:
        bench.add(binding, f"{now:06.1f}", at=now)
        now += 0.5
        bench.pass_time(now)
    assert now == at_most


def test_equal_texts_are_one_storm(bench):
    """Without a key, equal texts are debounced together, for each subscription."""
    one, two = bench.bind("one", debounce=1), bench.bind("two", debounce=1)
    for payload, at in ((1, 0.1), (2, 0.2), (1, 0.3)):
        bench.add(one, payload, at=at)
    bench.add(two, 1, at=0.4)
    bench.pass_time(1.4)
    assert bench.out == [("one", 2), ("one", 1), ("two", 1)]


def test_counts(bench):
    """A debounced notification has the number of those it stands for, but doesn't keep them."""
    binding = bench.bind(debounce=1, key=bool)
    for n in range(1, 1000):
        assert list(bench.gatherer.add(Delivery(binding, Notification("ch", n, "", 7, n)), 0)) == []
    assert bench.gatherer.waiting == 1
    (delivery,) = bench.gatherer.take_due(5.0)
    found = delivery.notification
    assert (found.payload, found.count, found.parts) == (999, 999, ())


def test_the_end(bench):
    """At the end, everything that is held back is delivered in its order."""
    batched = bench.bind("batched", batch=(10, 10))
    debounced = bench.bind("debounced", debounce=1)
    bench.add(debounced, 1, 2)
    bench.add(batched, 3, 4)
    bench.add(debounced, 1)
    bench.end()
    assert bench.out == [("debounced", 2), ("batched", [3, 4]), ("debounced", 1)]
    assert bench.gatherer.waiting == 0
    assert bench.gatherer.due_at is None


def test_memory_is_bounded():
    """Above the limit, the oldest notifications are delivered early."""
    bench = Bench(limit=10)
    binding = bench.bind(debounce=1)
    bench.add(binding, *range(100))
    assert [payload for _, payload in bench.out] == list(range(90))
    assert bench.gatherer.waiting == 10


@pytest.mark.parametrize("given", [{"debounce": 1}, {"batch": (1000, 60)}])
def test_memory_is_bounded_in_bytes(given):
    """The bytes held back are limited as well, and delivered ones don't count."""
    bench = Bench(max_size=1000)
    binding = bench.bind(**given)
    for number in range(100):
        bench.add(binding, f"{number:0100}")
        assert bench.gatherer.waiting == min(number + 1, 10) if "debounce" in given else True
        assert bench.gatherer.waiting <= 10
    bench.end()
    payloads = [payload for _, payload in bench.out]
    if "batch" in given:
        payloads = [one for batch in payloads for one in batch]
        assert max(len(batch) for _, batch in bench.out) == 11
    assert payloads == [f"{number:0100}" for number in range(100)]


def test_a_storm_counts_once():
    """Only the latest notification of a debounce counts towards the limit."""
    bench = Bench(max_size=1000)
    binding = bench.bind(debounce=1, key=len)
    for number in range(100):
        bench.add(binding, f"{number:0100}")
    assert bench.out == []


@pytest.mark.parametrize(
    ("given", "make"),
    [
        ({"debounce": 3600}, lambda number: f"{number:01000}"),
        ({"debounce": 3600, "key": lambda text: (text, "x" * 1000)}, lambda n: f"{n:0100}"),
        ({"batch": (1, 3600)}, lambda number: f"{number:01000}"),
        ({"batch": (2, 3600)}, lambda number: f"{number:01000}"),
    ],
)
@pytest.mark.slow
def test_memory_of_what_went_early(given, make):
    """Texts, keys and times of early deliveries aren't kept."""
    gatherer = Gatherer(100_000, 1_000_000)
    binding = Bench().bind(**given)

    def add(numbers):
        for number in numbers:
            text = make(number)
            for _ in gatherer.add(Delivery(binding, Notification("ch", text, text, 1, 0)), 0.0):
                pass

    add(range(2000))
    tracemalloc.start()
    try:
        add(range(2000, 12_000))
        grown, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_400_000
    assert grown < 3_200_000
    assert len(gatherer._due) <= 2 * len(gatherer._open) + 65


def test_times_are_kept_though_much_goes_early():
    """Notifications that aren't delivered early are delivered when they are due."""
    bench = Bench(limit=50)
    binding = bench.bind(debounce=10)
    for number in range(1000):
        bench.add(binding, number, at=number / 100)
    del bench.out[:]
    bench.pass_time(19.495)
    assert bench.out == []
    bench.pass_time(19.75)
    assert [payload for _, payload in bench.out] == list(range(950, 976))
    bench.pass_time(20.0)
    assert bench.gatherer.waiting == 0
    assert bench.gatherer.due_at is None


@pytest.mark.parametrize("key", [lambda _: 1 / 0, lambda _: []])
def test_a_key_that_fails(bench, key):
    """If `key` raises, the error is raised, and nothing is held back."""
    binding = bench.bind(debounce=1, key=key)
    with pytest.raises((ZeroDivisionError, TypeError)):
        bench.add(binding, 1)
    assert bench.gatherer.waiting == 0


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, None),
        ({"batch": (1, 0.5)}, Batch(1, 0.5)),
        ({"batch": [5, 1]}, Batch(5, 1.0)),
        ({"debounce": 2}, Debounce(2.0, 20.0)),
        ({"debounce": (2, 3)}, Debounce(2.0, 3.0)),
        ({"debounce": 2, "key": len}, Debounce(2.0, 20.0, len)),
    ],
)
def test_what_can_be_asked_for(given, found):
    """`batch` takes size and seconds, `debounce` seconds or a pair of them, with a key."""
    given = {"batch": None, "debounce": None, "key": None, **given}
    assert check_gathering("a", **given) == found


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"batch": 5}, ArgumentTypeError, "pair"),
        ({"batch": (5, 1, 1)}, ArgumentTypeError, "pair"),
        ({"batch": (5.5, 1)}, ArgumentTypeError, "an integer, not 5.5"),
        ({"batch": (True, 1)}, ArgumentTypeError, "an integer, not True"),
        ({"batch": (0, 1)}, ConfigurationError, "at least 1, not 0"),
        ({"batch": (5, "1")}, ArgumentTypeError, "a number of seconds, not '1'"),
        ({"batch": (5, 0)}, ConfigurationError, "above 0"),
        ({"batch": (5, float("nan"))}, ConfigurationError, "above 0"),
        ({"debounce": "1"}, ArgumentTypeError, "a number"),
        ({"debounce": -1}, ConfigurationError, "above 0"),
        ({"debounce": (1, 2, 3)}, ArgumentTypeError, "a pair"),
        ({"debounce": (2, 1)}, ConfigurationError, "at least its seconds"),
        ({"debounce": 1e9}, ConfigurationError, "at most 86400 \\(a day\\)"),
        ({"debounce": 1, "key": "id"}, ArgumentTypeError, "key must be callable"),
        ({"key": len}, ConfigurationError, "key needs debounce"),
        ({"batch": (5, 1), "key": len}, ConfigurationError, "key needs debounce"),
        ({"batch": (5, 1), "debounce": 1}, ConfigurationError, "not both"),
    ],
)
def test_what_cannot_be(given, error, says):
    """Each error has a clear message with the subscription's id."""
    given = {"batch": None, "debounce": None, "key": None, **given}
    with pytest.raises(error, match=says) as refused:
        check_gathering("orders", **given)
    assert "'orders'" in str(refused.value)
