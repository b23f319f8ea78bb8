"""Receipts: what of the entries that were read together is settled."""

import gc
import pickle

import pytest

from pgnotifier._durable.receipt import TRACEBACK_CHARS, Ledger, Reason, SharedReceipt


@pytest.fixture
def changes():
    """Return a list to which each call of `on_change` is added."""
    return []


@pytest.fixture
def ledger(changes):
    """Return a ledger of three entries."""
    return Ledger([1, 2, 3], lambda: changes.append(True))


def test_settling(ledger, changes):
    """All are done once each is settled, in any order, however often."""
    receipt = SharedReceipt(ledger, 0)
    for entry in (3, 1, 3):
        receipt.settle(entry)
        assert not ledger.is_done
    receipt.settle(2)
    assert ledger.is_done
    assert not ledger.failures
    assert changes == [True]


def test_settling_all(ledger, changes):
    """Several are settled at once, whether some of them were before or not; one change is noted."""
    receipt = SharedReceipt(ledger, 0)
    receipt.settle(2)
    receipt.settle_all([2, 3])
    assert ledger.left == {1}
    receipt.settle_all([1])
    receipt.settle_all([1, 2, 3])
    assert ledger.is_done
    assert changes == [True]


def test_failing(ledger):
    """A failure settles an entry, and is kept; it doesn't undo that the entry is done."""
    receipt = SharedReceipt(ledger, 0)
    receipt.settle(1)
    receipt.fail(1, ValueError("too late"))
    receipt.fail(2, ValueError("first"))
    receipt.fail(2, ValueError("second"))
    receipt.settle(2)
    assert [one.error for one in ledger.failures.values()] == ["ValueError: first"]
    assert ledger.left == {3}


def test_losing(ledger, changes):
    """Once nobody has the receipt, what is left is lost."""
    receipt = SharedReceipt(ledger, 0)
    receipt.settle(1)
    del receipt
    gc.collect()
    assert ledger.is_lost
    assert not ledger.is_done
    assert changes == [True]


def test_a_receipt_stays_in_its_process(ledger):
    """A copy of an entry in another process has no receipt."""
    receipt = SharedReceipt(ledger, 0)
    assert pickle.loads(pickle.dumps(receipt)) is None
    assert repr(receipt) == "<receipt, 3 left>"


def test_mutes(ledger):
    """A receipt doesn't cover a binding that was muted since."""
    receipt = SharedReceipt(ledger, 2)
    assert receipt.covers(2)
    assert not receipt.covers(3)


class UnprintableError(Exception):
    """An exception that has no text."""

    def __str__(self):
        raise RuntimeError("no text")


def test_reasons():
    """What PostgreSQL can't store is replaced, long texts are cut, and nothing raises."""
    odd = Reason.of(ValueError("a\0b\ud800"))
    assert odd.error == "ValueError: a\N{SYMBOL FOR NULL}b\\ud800"
    long = Reason.of(ValueError("x" * 100_000))
    assert len(long.error) == len(long.traceback) == TRACEBACK_CHARS
    assert "UnprintableError" in Reason.of(UnprintableError()).error
