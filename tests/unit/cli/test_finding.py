"""How `pgnotifier listen` finds notifiers, and its errors if it doesn't find one."""

import itertools
import json

import pytest

from pgnotifier import Notifier
from pgnotifier.cli.finding import find_notifiers
from pgnotifier.cli.listing import show_json, show_table
from pgnotifier.errors import ConfigurationError

numbers = itertools.count()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a module into the current directory; it returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])

    def write(source):
        name = f"shop_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(f"from pgnotifier import Notifier\n{source}")
        return name

    return write


FOUND = """
notifier = Notifier("dbname=shop")
notifier.subscribe("resize", "images", print)

class App:
    audit = Notifier("dbname=app")
    audit.add_channel("orders")
"""


def test_found(write):
    """Notifiers in the current directory are found by name; the default name is `notifier`."""
    name = write(FOUND)
    first, second, third = find_notifiers([name, f"{name}:notifier", f"{name}:App.audit"])
    assert isinstance(first, Notifier)
    assert first is second
    assert not first.is_running()
    assert third.get_channels() == {"orders"}


@pytest.mark.parametrize(
    ("source", "spec", "reason"),
    [
        ("", "nowhere", "there is no module 'nowhere'; run pgnotifier in the directory"),
        ("", "nowhere.at.all:x", "there is no module 'nowhere.at.all'"),
        ("", "{}:x:y", "must be given as module:name"),
        ("", "./{}.py", "must be given as module:name"),
        ("", "", "module:name, not ''"),
        ("", ".{}", "must be given as module:name"),
        ("", "{}", "has no Notifier called 'notifier'"),
        ("notifier = 5", "{}", "has no Notifier called 'notifier'"),
        ("", "{}:a.b", "has no Notifier called 'a.b'"),
        ("notifier = Notifier('dbname=shop')", "{}", "has no channel. Subscribe to one"),
    ],
)
def test_not_found(write, source, spec, reason):
    """If there is no usable notifier under the given name, the error says why."""
    with pytest.raises(ConfigurationError) as caught:
        find_notifiers([spec.format(write(source))])
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import nowhere_at_all", ModuleNotFoundError),
        ("raise ValueError('of its own')", ValueError),
        ("raise TypeError('of its own')", TypeError),
    ],
)
def test_errors_of_the_module_are_its_own(write, source, error):
    """An error that the module itself raises isn't mistaken for a wrong name."""
    with pytest.raises(error, match=r"nowhere_at_all|of its own"):
        find_notifiers([write(source)])


def test_listing(write):
    """The listing shows subscriptions, and channels without any, as a table and as JSON."""
    name = write(FOUND)
    found = find_notifiers([name, f"{name}:App.audit"])
    assert show_table(found).splitlines() == [
        "CHANNEL  SUBSCRIPTION  CALLBACK",
        "images   resize        builtins.print",
        "orders   -             -",
    ]
    assert '"channel": "orders",\n    "id": null' in show_json(found)


START = "start=2026-01-01T00:00:00+00:00"
DURABLE = """
from datetime import UTC, datetime
from pgnotifier import Notifier
notifier = Notifier("dbname=nothing", autorun=False)
notifier.subscribe("resize", "images", print)
notifier.subscribe("bill", "orders", print, durable=True, max_attempts=3, on_failure="stop")
notifier.subscribe("mail", "orders", print, durable=True, start=datetime(2026, 1, 1, tzinfo=UTC))
"""


def test_listing_of_durable_subscriptions(write):
    """The listing shows how durable subscriptions read the log; others have a dash there."""
    found = find_notifiers([write(DURABLE)])
    assert show_table(found).splitlines() == [
        "CHANNEL  SUBSCRIPTION  CALLBACK        DURABLE",
        "images   resize        builtins.print  -",
        "orders   bill          builtins.print  start=now max_attempts=3 on_failure=stop",
        f"orders   mail          builtins.print  {START} max_attempts=5 on_failure=dead_letter",
    ]
    first, second, third = json.loads(show_json(found))
    assert "durable" not in first
    assert second["durable"] is True
    assert (second["start"], second["max_attempts"], second["on_failure"]) == ("now", 3, "stop")
    assert third["start"] == "2026-01-01T00:00:00+00:00"
