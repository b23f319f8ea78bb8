"""LogThrottle logs one warning a minute."""

import logging

from pgnotifier._runtime import log_records as recurring
from pgnotifier._runtime.log_records import LogThrottle


def test_a_warning_a_minute(caplog, monkeypatch):
    """Anything logged within a minute of a warning gets a lower level."""
    now = 1000.0
    monkeypatch.setattr(recurring, "monotonic", lambda: now)
    caplog.set_level(logging.DEBUG)
    log = LogThrottle(logging.getLogger("pgnotifier.test"))
    for now in (1000.0, 1001.0, 1059.9, 1060.0, 1061.0):
        assert log.is_due == (now in (1000.0, 1060.0))
        log("at %s", now)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "DEBUG", "DEBUG", "WARNING", "DEBUG"]
    assert caplog.messages[0] == "at 1000.0"


def test_the_other_level(caplog):
    """The lower level can be chosen."""
    caplog.set_level(logging.INFO)
    log = LogThrottle(logging.getLogger("pgnotifier.test"), others=logging.INFO)
    log("first")
    log("second")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
