"""Secrets in a queue's errors or in callbacks aren't shown in logs, status, probes or lists."""

import functools
import json
import logging

import pytest

from pgnotifier import Dispatcher, InlineDispatcher, Notifier
from pgnotifier._health.health_server import HealthServer
from pgnotifier.cli.listing import show_json, show_table
from pgnotifier.cli.probing import probe


class Refused(Dispatcher):
    """A dispatcher that fails with its URL and password in the error."""

    def bind(self, subscription):
        return subscription.fn

    def dispatch(self, batch):
        raise ConnectionError("can't reach redis://u:hid/qzx@h:1\npassword='hidqzx'")

    def is_reachable(self):
        return False


def test_a_queue_that_is_down(notifier, db, caplog, eventually, free_port):
    """The error of a queue that is down is shown in one line, without the password."""
    caplog.set_level(logging.DEBUG)
    notifier.subscribe("a", "a", print, dispatcher=Refused())
    db.notify("a")
    eventually(lambda: any(one.why for one in notifier.status().dispatchers))
    health = HealthServer([notifier], free_port, "127.0.0.1")
    health.start()
    try:
        answers = [repr(probe(free_port, path)) for path in ("/healthz", "/readyz")]
    finally:
        health.stop()
    status = json.dumps(notifier.status().to_dict())
    notifier.stop(0)
    assert "can't reach redis://u:***@h:1; password=***" in status
    shown = [f"{record.getMessage()} {vars(record)}" for record in caplog.records]
    assert any("can't reach redis://u:***@h:1" in one for one in shown)
    for text in [status, *answers, *shown, repr(notifier)]:
        assert "hid" not in text
        assert "qzx" not in text


class Secretive:
    """A callable with a secret in its repr."""

    def __repr__(self):
        return "hidqzx"

    def __call__(self, *args):
        pass


@pytest.mark.parametrize("show", [show_json, show_table])
def test_lists(show):
    """`--list` shows the function or class of a callback, and not its arguments or repr."""
    notifier = Notifier("host=h password=hidqzx", dispatcher=InlineDispatcher(), autorun=False)
    notifier.subscribe("a", "a", functools.partial(print, "hidqzx"))
    notifier.subscribe("b", "a", Secretive())
    shown = show([notifier])
    assert "partial of builtins.print" in shown
    assert f"{__name__}.Secretive" in shown
    assert "hidqzx" not in shown + repr(notifier)
