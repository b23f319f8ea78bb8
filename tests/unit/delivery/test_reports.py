"""Reports of errors and gaps: what is logged, how often, and what hooks may do."""

import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgnotifier import Gap, InlineDispatcher, Notification, Subscription
from pgnotifier._delivery import reports as reporting
from pgnotifier._delivery.reports import ErrorReport, GapReport

NOTIFICATION = Notification("a", 1, "1", 7, datetime.now(UTC))


def subscription(id=1, channel="a"):
    return Subscription(id, channel, print, InlineDispatcher())


def gap(number):
    return Gap(datetime.now(UTC), datetime.now(UTC), frozenset({"a"}), f"reason {number}")


@pytest.fixture
def now(monkeypatch):
    """Return a clock that the test sets."""
    clock = [1000.0]
    monkeypatch.setattr(reporting, "monotonic", lambda: clock[0])
    return clock


def test_an_error_is_logged_with_its_traceback(caplog):
    """The log has the subscription, the channel and the traceback of an error."""
    try:
        raise ValueError("no such order")
    except ValueError as exc:
        ErrorReport(None)(exc, subscription("invoice", "orders"), NOTIFICATION)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.name == "pgnotifier.reporting"
    assert "'invoice'" in record.getMessage()
    assert "'orders'" in record.getMessage()
    assert "no such order" in caplog.text
    assert Path(__file__).name in caplog.text


def test_the_same_error_is_logged_once_a_minute(caplog, now):
    """Repeated errors are counted, and their number is logged with the next one."""
    report, calls = ErrorReport(lambda *args: calls.append(args)), []
    for _ in range(1000):
        report(ValueError("x"), subscription(), NOTIFICATION)
    assert len(caplog.records) == 1
    now[0] += 61
    report(ValueError("x"), subscription(), NOTIFICATION)
    assert len(caplog.records) == 2
    assert "and 999 times since" in caplog.records[1].getMessage()
    now[0] += 61
    report(ValueError("x"), subscription(), NOTIFICATION)
    assert "times" not in caplog.records[2].getMessage()
    assert report.count == len(calls) == 1002


def test_other_errors_are_logged_at_once(caplog, now):
    """An error of another type, subscription or channel is logged at once."""
    report = ErrorReport(None)
    for exc, what in (
        (ValueError("x"), subscription()),
        (KeyError("x"), subscription()),
        (ValueError("x"), subscription(2)),
        (ValueError("x"), subscription(1, "b")),
    ):
        report(exc, what, NOTIFICATION)
        report(exc, what, NOTIFICATION)
    assert len(caplog.records) == 4


def test_errors_of_bygone_subscriptions_are_forgotten(caplog, now, monkeypatch):
    """Only the latest kinds of error are remembered; a forgotten one is logged again."""
    monkeypatch.setattr(reporting, "REMEMBERED", 3)
    report = ErrorReport(None)
    for key in (1, 2, 3, 4, 3, 2, 1):
        report(ValueError("x"), subscription(key), NOTIFICATION)
    assert [record.args[0] for record in caplog.records] == [1, 2, 3, 4, 1]
    now[0] += 61
    for key in (3, 5, 3):
        report(ValueError("x"), subscription(key), NOTIFICATION)
    assert [record.args[0] for record in caplog.records][5:] == [3, 5]
    assert len(report._quiet) == 3


@pytest.mark.parametrize("error", [ValueError("broken hook"), SystemExit(1), KeyboardInterrupt()])
def test_on_error_failing(caplog, error):
    """An exception of the hook is logged, and reporting goes on."""

    def hook(*_):
        raise error

    report = ErrorReport(hook)
    report(KeyError("x"), subscription(), NOTIFICATION)
    assert report.count == 1
    assert "on_error itself failed" in caplog.text
    assert type(error).__name__ in caplog.text


def test_on_error_gets_what_happened():
    """The hook gets the exception itself, the subscription and the notification."""
    calls = []
    exc, what = ValueError("x"), subscription()
    ErrorReport(lambda *args: calls.append(args))(exc, what, NOTIFICATION)
    assert calls == [(exc, what, NOTIFICATION)]


def test_gaps_come_in_order_one_at_a_time(eventually):
    """The hook gets each gap, in order, and none while it is busy with another."""
    seen, busy, overlaps = [], threading.Lock(), []

    def hook(gap):
        if not busy.acquire(blocking=False):
            overlaps.append(gap)
            return
        seen.append(gap)
        busy.release()

    report = GapReport(hook)
    gaps = [gap(number) for number in range(200)]
    for one in gaps:
        report(one)
    eventually(lambda: len(seen) + len(overlaps) == 200)
    assert seen == gaps
    assert report.count == 200
    assert report.last is gaps[-1]


def test_a_slow_gap_hook_holds_nobody_up(eventually):
    """Reporting a gap doesn't wait for the hook."""
    opened, seen = threading.Event(), []

    def hook(gap):
        assert opened.wait(20)
        seen.append(gap.reason)

    report = GapReport(hook)
    report(gap(1))
    report(gap(2))
    assert seen == []
    opened.set()
    eventually(lambda: seen == ["reason 1", "reason 2"])


def test_on_gap_failing(caplog, eventually):
    """If the hook raises an exception, that is logged, and the hook gets the next gap."""
    seen = []

    def hook(gap):
        seen.append(gap)
        raise SystemExit

    report = GapReport(hook)
    report(gap(1))
    report(gap(2))
    eventually(lambda: len(seen) == 2 and caplog.text.count("on_gap itself failed") == 2)


def test_gaps_are_logged_without_a_hook(caplog):
    """Without a hook, each gap is logged as a warning with its bounds and reason."""
    one = gap(1)
    GapReport(None)(one)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    for part in (one.since.isoformat(), one.until.isoformat(), "1 channel:", "reason 1"):
        assert part in record.getMessage()


def test_gaps_with_a_hook(caplog):
    """With a hook, a gap is logged as INFO, because the hook handles it."""
    caplog.set_level(logging.INFO)
    report = GapReport(lambda _: None)
    report(gap(1))
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_fields(caplog):
    """Log records have the fields of their event as attributes."""
    one = gap(1)
    GapReport(None)(one)
    ErrorReport(None)(ValueError("x"), subscription(("a", 1), "orders"), NOTIFICATION)
    found, failed = caplog.records
    assert (found.pgnotifier_event, found.since, found.until) == ("gap", one.since, one.until)
    assert (found.channels, found.count, found.why) == (["a"], 1, "reason 1")
    assert failed.pgnotifier_event == "delivery_failed"
    assert (failed.subscription, failed.channel) == (("a", 1), "orders")
    assert (failed.dispatcher, failed.error, failed.count) == ("InlineDispatcher", "ValueError", 1)
