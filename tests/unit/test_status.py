"""The status as a value."""

import dataclasses
import json
from datetime import UTC, datetime

import pytest

from pgnotifier import DispatcherStatus, Gap, Notifier, Status
from pgnotifier.status import Latency

AT = datetime(2026, 5, 4, tzinfo=UTC)


def status(last_gap=None):
    dispatcher = DispatcherStatus(
        "InlineDispatcher", 1, 2, 3, full=True, retrying=False, since=AT, why="full", details={}
    )
    return Status(
        state="listening",
        since=AT,
        why=None,
        connection="host=h",
        channels=1,
        subscriptions=2,
        received=3,
        channel_counts={"a": 3},
        errors=4,
        reconnects=5,
        latency=Latency(0.1, 0.2, 0.3, 4),
        queue_usage=0.5,
        gaps=6,
        last_gap=last_gap,
        dispatchers=(dispatcher,),
    )


def test_json():
    """A status can be written as JSON, with or without a last gap."""
    gap = Gap(AT, AT, frozenset({"b", "a"}), "why")
    found = json.loads(json.dumps(status(gap).to_dict()))
    assert found["state"] == "listening"
    assert found["last_gap"]["channels"] == ["a", "b"]
    assert found["last_gap"]["since"] == AT.isoformat()
    assert found["since"] == AT.isoformat()
    assert found["latency"] == {"last": 0.1, "mean": 0.2, "highest": 0.3, "count": 4}
    (dispatcher,) = found["dispatchers"]
    assert dispatcher == {
        "name": "InlineDispatcher",
        "waiting": 1,
        "delivered": 2,
        "dropped": 3,
        "full": True,
        "retrying": False,
        "since": AT.isoformat(),
        "why": "full",
        "details": {},
        "waiting_bytes": 0,
    }
    assert set(found) == {field.name for field in dataclasses.fields(Status)}
    assert json.loads(json.dumps(status().to_dict()))["last_gap"] is None


def test_frozen():
    """A status can't be changed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        status().state = "stopped"


def test_of_a_notifier_that_never_ran():
    """Before the start, the state is stopped, all counts are zero, and no password is shown."""
    notifier = Notifier("postgresql://u:s3cret@h/db")
    notifier.add_channels(["a", "b"], autorun=False)
    notifier.subscribe(1, "b", print, autorun=False)
    found = notifier.status().to_dict()
    del found["since"]
    assert found == {
        "state": "stopped",
        "why": None,
        "connection": "host=h dbname=db user=u",
        "channels": 2,
        "subscriptions": 1,
        "received": 0,
        "channel_counts": {},
        "errors": 0,
        "reconnects": 0,
        "latency": None,
        "queue_usage": None,
        "gaps": 0,
        "last_gap": None,
        "dispatchers": (),
        "durable": (),
        "log": None,
        "gap_seconds": 0.0,
        "delivered_counts": {},
        "dropped_counts": {},
    }
