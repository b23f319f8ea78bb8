"""Channels whose names hold capitals are warned of, once."""

import pytest

from pgnotifier import InlineDispatcher, Notifier
from pgnotifier.spelling import Spelling


def test_capitals(caplog):
    """The warning says where NOTIFY without quotes goes, and how to reach the channel."""
    spelling = Spelling()
    spelling.check("Orders", {"a"})
    spelling.check("Orders", {"a", "Orders"})
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "NOTIFY Orders without quotes goes to 'orders'" in record.getMessage()
    assert 'NOTIFY "Orders"' in record.getMessage()
    assert "differs" not in record.getMessage()
    assert (record.pgnotifier_event, record.channel) == ("channel_case", "Orders")


def test_by_case_alone(caplog):
    """Others that are registered, and differ by nothing else, are named."""
    spelling = Spelling()
    spelling.check("Orders", {"orders"})
    spelling.check("ORDERS", {"orders", "Orders"})
    assert [record.others for record in caplog.records] == [["orders"], ["Orders", "orders"]]


def test_the_one_without_capitals_comes_later(caplog):
    """It is warned of as well, once, unless it was named already."""
    spelling = Spelling()
    spelling.check("Orders", set())
    for _ in range(2):
        spelling.check("orders", {"Orders"})
    record = caplog.records[-1]
    assert [one.channel for one in caplog.records] == ["Orders", "orders"]
    assert "'orders' differs by case alone from 'Orders'" in record.getMessage()
    assert (record.pgnotifier_event, record.others) == ("channel_case", ["Orders"])


def test_one_call_adds_both(caplog):
    """One warning names both, in whatever order they are given."""
    for names in (["Orders", "orders"], ["orders", "Orders"]):
        caplog.clear()
        Notifier("host=nowhere").add_channels(names, autorun=False)
        assert [(one.channel, one.others) for one in caplog.records] == [("Orders", ["orders"])]


@pytest.mark.parametrize("name", ["orders", "größe", "Shop.Orders", "Two words", "9A", "É"])
def test_what_is_not_meant(caplog, name):
    """Names without capitals, and those that SQL takes in quotes only."""
    Spelling().check(name, set())
    assert caplog.records == []


def test_at_subscribe_time(caplog):
    """By each way of adding a channel, once for each name."""
    notifier = Notifier("host=nowhere")
    for _ in range(2):
        notifier.add_channels(["Orders", "orders"], autorun=False)
        notifier.subscribe(1, "Users", print, autorun=False, dispatcher=InlineDispatcher())
        notifier.remove_channels(["Orders", "Users"], autorun=False)
    assert [record.channel for record in caplog.records] == ["Orders", "Users"]
