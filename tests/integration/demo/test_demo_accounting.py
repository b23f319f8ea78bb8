"""What the demo concludes from what was sent, executed and reported."""

import pytest

from pgnotifier.demo.accounting import Account, Execution, ReportedGap, Sent, percentile

GAP = ReportedGap(since=100.0, until=101.0, reason="cut")


def make_account(*, sent=(), executed=(), gaps=()):
    """Return an account of notifications, by number: each is sent at a time, in seconds."""
    account = Account()
    for number, at in sent:
        one = Sent("orders", f'{{"id":{number}, "item":"tea"}}', at, at + 0.001)
        account.sent[one.key] = one
    for number, at in executed:
        ran = Execution("orders", {"item": "tea", "id": number}, "alpha", 7, at)
        account.executions[ran.key].append(ran)
    account.gaps.extend(gaps)
    return account


def numbers(found):
    return [one.text for one in found]


def test_all_executed():
    """What was executed once each is good, with latencies from sending to running."""
    account = make_account(sent=[(1, 10.0), (2, 20.0)], executed=[(1, 10.004), (2, 20.008)])
    summary = account.settle()
    assert summary.is_good
    assert (summary.sent, summary.executed) == (2, 2)
    assert summary.median == pytest.approx(6.0, abs=0.01)
    assert summary.p99 == pytest.approx(8.0, abs=0.01)


def test_lost_without_a_gap():
    """What was not executed, without any gap, is unexplained."""
    summary = make_account(sent=[(1, 10.0), (2, 20.0)], executed=[(1, 10.1)]).settle()
    assert not summary.is_good
    assert numbers(summary.unexplained) == ['{"id":2, "item":"tea"}']
    assert summary.in_gap == ()


@pytest.mark.parametrize(
    ("at", "good"),
    [(99.0, False), (99.9995, True), (100.5, True), (101.0, True), (101.1, False)],
)
def test_lost_beside_a_gap(at, good):
    """A gap accounts for what may have been committed in it, and for nothing before or after."""
    summary = make_account(sent=[(1, at)], gaps=[GAP]).settle()
    assert summary.is_good is good
    assert len(summary.in_gap) == int(good)
    assert len(summary.unexplained) == int(not good)


def test_executed_in_a_gap():
    """What was executed counts as executed, though a gap might account for it."""
    summary = make_account(sent=[(1, 100.5)], executed=[(1, 100.6)], gaps=[GAP]).settle()
    assert (summary.executed, summary.in_gap) == (1, ())


def test_executed_twice():
    """A task that ran twice is no good, and its first run is what counts for latency."""
    summary = make_account(sent=[(1, 10.0)], executed=[(1, 10.001), (1, 10.5)]).settle()
    assert not summary.is_good
    assert numbers(summary.doubled) == ['{"id":1, "item":"tea"}']
    assert summary.median == pytest.approx(1.0, abs=0.01)


def test_what_others_sent():
    """Tasks of somebody else's notifications are neither executions nor doubles of ours."""
    summary = make_account(sent=[(1, 10.0)], executed=[(1, 10.1), (9, 11.0), (9, 12.0)]).settle()
    assert summary.is_good
    assert (summary.sent, summary.executed) == (1, 1)


def test_altered_on_the_way():
    """A task that got another payload than was sent is no execution of it."""
    account = make_account(sent=[(1, 10.0)])
    other = Execution("orders", {"id": "1", "item": "tea"}, "alpha", 7, 10.1)
    account.executions[other.key].append(other)
    assert len(account.settle().unexplained) == 1


def test_nothing_executed():
    """Without an execution there is no latency to tell."""
    summary = make_account(sent=[(1, 10.0)]).settle()
    assert (summary.median, summary.p99) == (None, None)


def test_percentile():
    """Ninety-nine of a hundred values don't exceed the 99th percentile."""
    assert percentile([float(n) for n in range(1, 101)], 99) == 99.0
    assert percentile([5.0], 99) == 5.0
