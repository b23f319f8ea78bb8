"""Without instrumentation there is no tracing; with several libraries, each makes its spans."""

from contextlib import contextmanager

from pgnotifier import InlineDispatcher, Notifier
from pgnotifier._runtime.tracing import find_all


class Noting:
    """Makes spans that note when they begin and end, for every other delivery only."""

    def __init__(self, name, notes, ids):
        self.name, self.notes, self.ids = name, notes, ids

    @contextmanager
    def calling(self, delivery):
        self.notes.append(f"{self.name} begins {delivery}")
        yield
        self.notes.append(f"{self.name} ends {delivery}")

    def begin_batch(self, deliveries):
        if not deliveries:
            return None
        return lambda delivery: self.calling(delivery) if delivery % 2 else None

    def handing_over(self, deliveries, by):
        return self.calling([by, *deliveries])

    def find(self, delivery, kind):
        return self.ids if isinstance(self.ids, kind) else None


def test_no_tracing_by_default():
    """Nothing makes spans unless something was asked for it."""
    assert find_all([]) is None
    assert find_all([lambda: None]) is None
    dispatcher = InlineDispatcher()
    Notifier("dbname=shop", dispatcher=dispatcher)
    assert dispatcher.tracing is None


def test_several_libraries():
    """Each library makes its spans, the first one around the others, and finds its own ids."""
    notes = []
    one, two = Noting("one", notes, "text"), Noting("two", notes, 7)
    assert find_all([lambda: None, lambda: one]) is one
    both = find_all([lambda: one, lambda: None, lambda: two])
    with both.calling(4):
        pass
    assert notes == ["one begins 4", "two begins 4", "two ends 4", "one ends 4"]
    notes.clear()
    assert both.begin_batch([]) is None
    choose = both.begin_batch([2, 3])
    assert choose(2) is None
    with choose(3):
        pass
    assert notes == ["one begins 3", "two begins 3", "two ends 3", "one ends 3"]
    notes.clear()
    with both.handing_over(iter([1, 2]), 0):
        assert notes == ["one begins [0, 1, 2]", "two begins [0, 1, 2]"]
    assert (both.find(1, int), both.find(1, str), both.find(1, bytes)) == (7, "text", None)
