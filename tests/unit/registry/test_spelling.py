"""Channel names with capitals cause a warning, once."""

import itertools
import logging
import threading
import tracemalloc

import pytest

from pgnotifier import InlineDispatcher, Notifier
from pgnotifier._registry import spelling as spelling_module
from pgnotifier._registry.spelling import Spelling


def test_capitals(caplog):
    """The warning says where NOTIFY without quotes goes, and how to reach the channel."""
    spelling = Spelling()
    spelling.check("Orders", {"a"})
    spelling.check("Orders", {"a", "Orders"})
    assert caplog.records == []
    spelling.warn()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "NOTIFY Orders without quotes goes to 'orders'" in record.getMessage()
    assert 'NOTIFY "Orders"' in record.getMessage()
    assert "differs" not in record.getMessage()
    assert (record.pgnotifier_event, record.channel) == ("channel_case", "Orders")


def test_by_case_alone(caplog):
    """The warning names registered channels that differ only by case."""
    spelling = Spelling()
    spelling.check("Orders", {"orders"})
    spelling.check("ORDERS", {"orders", "Orders"})
    spelling.warn()
    assert [record.others for record in caplog.records] == [["orders"], ["Orders", "orders"]]
    one, several = caplog.messages
    assert one.endswith("; it differs only by case from 'orders'")
    assert several.endswith("; it differs only by case from 'Orders', 'orders'")


def test_the_one_without_capitals_comes_later(caplog):
    """A later name without capitals causes a warning as well, once."""
    spelling = Spelling()
    spelling.check("Orders", set())
    for _ in range(2):
        spelling.check("orders", {"Orders"})
    spelling.warn()
    record = caplog.records[-1]
    assert [one.channel for one in caplog.records] == ["Orders", "orders"]
    assert "'orders' differs only by case from 'Orders'" in record.getMessage()
    assert (record.pgnotifier_event, record.others) == ("channel_case", ["Orders"])


def test_one_call_adds_both(caplog):
    """If one call adds both names, one warning names both, in any order."""
    for names in (["Orders", "orders"], ["orders", "Orders"]):
        caplog.clear()
        Notifier("host=nowhere").add_channels(names, autorun=False)
        assert [(one.channel, one.others) for one in caplog.records] == [("Orders", ["orders"])]


@pytest.mark.parametrize("name", ["orders", "größe", "Shop.Orders", "Two words", "9A", "É"])
def test_what_is_not_meant(caplog, name):
    """Names without capitals, and those that SQL always has to quote, cause no warning."""
    spelling = Spelling()
    spelling.check(name, set())
    spelling.warn()
    assert caplog.records == []


def test_at_subscribe_time(caplog):
    """Each method that adds a channel warns, once per name."""
    notifier = Notifier("host=nowhere")
    for _ in range(2):
        notifier.add_channels(["Orders", "orders"], autorun=False)
        notifier.subscribe(1, "Users", print, autorun=False, dispatcher=InlineDispatcher())
        notifier.remove_channels(["Orders", "Users"], autorun=False)
    assert [record.channel for record in caplog.records] == ["Orders", "Users"]


@pytest.mark.slow
def test_channels_that_come_and_go(monkeypatch, caplog):
    """Only a limited number of removed names are remembered, the latest ones."""
    monkeypatch.setattr(spelling_module, "REMEMBERED", 100)
    logging.getLogger("pgnotifier.spelling").setLevel(logging.ERROR)
    try:
        spelling = Spelling()

        def come_and_go(numbers):
            for number in numbers:
                for name in (f"Channel{number}", f"channel{number}", f"CHANNEL{number % 7}"):
                    spelling.check(name, {name})
            spelling.warn()

        tracemalloc.start()
        come_and_go(range(1000))
        before, _ = tracemalloc.get_traced_memory()
        come_and_go(range(1000, 5000))
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    finally:
        logging.getLogger("pgnotifier.spelling").setLevel(logging.NOTSET)
    assert after - before < 100_000
    spelling.check("Channel4999", set())
    spelling.check("Channel1", set())
    spelling.warn()
    assert [record.channel for record in caplog.records] == ["Channel1"]


@pytest.mark.slow
def test_many_spellings_of_one_name():
    """Only the latest spellings are remembered, however many ways to write a name there are."""
    spelling = Spelling()
    letters = "abcdefghijkl"
    logging.getLogger("pgnotifier.spelling").setLevel(logging.ERROR)
    try:
        tracemalloc.start()
        for choice in itertools.islice(
            itertools.product(*zip(letters, letters.upper(), strict=True)), 1, None
        ):
            spelling.check("".join(choice), set())
            spelling.warn()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        logging.getLogger("pgnotifier.spelling").setLevel(logging.NOTSET)
    assert kept < 100_000


@pytest.mark.parametrize(
    "change",
    [
        lambda notifier: notifier.add_channels(["Orders"], autorun=False),
        lambda notifier: notifier.subscribe(1, "Orders", print, autorun=False),
    ],
)
def test_a_handler_of_the_log_that_waits_for_who_subscribes(change):
    """The warning is logged without the notifier's lock, so other threads can subscribe."""
    notifier = Notifier("host=nowhere")

    class Handler(logging.Handler):
        def emit(self, _):
            other = threading.Thread(
                target=notifier.add_channels, args=(["other"], False), daemon=True
            )
            other.start()
            other.join(10)

    handler = Handler()
    logging.getLogger("pgnotifier.spelling").addHandler(handler)
    try:
        change(notifier)
        assert notifier.get_channels() == {"Orders", "other"}
    finally:
        logging.getLogger("pgnotifier.spelling").removeHandler(handler)
