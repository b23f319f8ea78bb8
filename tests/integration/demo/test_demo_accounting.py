"""The demo's summary, from the notifications sent, the tasks executed and the gaps reported."""

import pytest

from pgnotifier.demo.accounting import Account, Execution, ReportedGap, Sent, percentile

GAP = ReportedGap(since=100.0, until=101.0, reason="cut")


def make_account(*, sent=(), executed=(), gaps=(), durable=False):
    """Return an account; `sent` and `executed` are pairs of a number and a time in seconds."""
    account = Account()
    for number, at in sent:
        one = Sent("orders", f'{{"id":{number}, "item":"tea"}}', at, at + 0.001, durable)
        account.sent[one.key] = one
    for number, at in executed:
        ran = Execution("orders", {"item": "tea", "id": number}, "alpha", 7, at)
        account.executions[ran.key].append(ran)
    account.gaps.extend(gaps)
    return account


def numbers(found):
    return [one.text for one in found]


def test_all_executed():
    """If each was executed once, the result is good; latencies are from sending to running."""
    account = make_account(sent=[(1, 10.0), (2, 20.0)], executed=[(1, 10.004), (2, 20.008)])
    summary = account.settle().plain
    assert summary.is_good
    assert (summary.sent, summary.executed) == (2, 2)
    assert summary.median == pytest.approx(6.0, abs=0.01)
    assert summary.p99 == pytest.approx(8.0, abs=0.01)


def test_lost_without_a_gap():
    """A notification that wasn't executed is unexplained if there was no gap."""
    summary = make_account(sent=[(1, 10.0), (2, 20.0)], executed=[(1, 10.1)]).settle().plain
    assert not summary.is_good
    assert numbers(summary.unexplained) == ['{"id":2, "item":"tea"}']
    assert summary.in_gap == ()


@pytest.mark.parametrize(
    ("at", "good"),
    [(99.0, False), (99.9995, True), (100.5, True), (101.0, True), (101.1, False)],
)
def test_lost_beside_a_gap(at, good):
    """A gap explains a loss only if the notification may have been committed within it."""
    summary = make_account(sent=[(1, at)], gaps=[GAP]).settle().plain
    assert summary.is_good is good
    assert len(summary.in_gap) == int(good)
    assert len(summary.unexplained) == int(not good)


def test_a_durable_one_lost_in_a_gap():
    """No gap explains that a durable one is missing; one that has waited is executed."""
    sent = [(1, 100.5), (2, 100.6)]
    account = make_account(sent=sent, executed=[(1, 101.2)], gaps=[GAP], durable=True)
    result = account.settle()
    assert not result.is_good
    assert result.plain.is_good
    assert (result.plain.sent, result.durable.sent) == (0, 2)
    assert (result.durable.executed, result.durable.in_gap) == (1, ())
    assert numbers(result.durable.unexplained) == ['{"id":2, "item":"tea"}']
    assert numbers(account.find_unexplained()) == ['{"id":2, "item":"tea"}']


def test_sent_while_cut_off():
    """What is sent from the cut on until the end of the gap counts as sent while cut off."""
    account = make_account(sent=[(1, 99.0), (2, 100.5), (3, 101.5)], gaps=[GAP])
    assert account.settle().plain.cut_off == 0
    account.cut_at = 100.0
    assert account.settle().plain.cut_off == 1


def test_executed_in_a_gap():
    """A notification that was executed counts as executed, although it was sent in a gap."""
    summary = make_account(sent=[(1, 100.5)], executed=[(1, 100.6)], gaps=[GAP]).settle().plain
    assert (summary.executed, summary.in_gap) == (1, ())


def test_executed_twice():
    """A task that ran twice makes the result bad; its latency is that of its first run."""
    summary = make_account(sent=[(1, 10.0)], executed=[(1, 10.001), (1, 10.5)]).settle().plain
    assert not summary.is_good
    assert numbers(summary.doubled) == ['{"id":1, "item":"tea"}']
    assert summary.median == pytest.approx(1.0, abs=0.01)


def test_what_others_sent():
    """Tasks of notifications that the demo didn't send are ignored, even if they ran twice."""
    summary = (
        make_account(sent=[(1, 10.0)], executed=[(1, 10.1), (9, 11.0), (9, 12.0)]).settle().plain
    )
    assert summary.is_good
    assert (summary.sent, summary.executed) == (1, 1)


def test_altered_on_the_way():
    """A task with a payload that differs from the one sent doesn't count as its execution."""
    account = make_account(sent=[(1, 10.0)])
    other = Execution("orders", {"id": "1", "item": "tea"}, "alpha", 7, 10.1)
    account.executions[other.key].append(other)
    assert len(account.settle().plain.unexplained) == 1


def test_nothing_executed():
    """Without an execution the latencies are None."""
    summary = make_account(sent=[(1, 10.0)]).settle().plain
    assert (summary.median, summary.p99) == (None, None)


def test_percentile():
    """Of a hundred values, 99 don't exceed the 99th percentile."""
    assert percentile([float(n) for n in range(1, 101)], 99) == 99.0
    assert percentile([5.0], 99) == 5.0
