"""What the documentation says of metrics and logs is so."""

import io
import json
import logging
import re
from pathlib import Path

import pytest

from pgnotifier.contrib._metrics.table import METRICS, PUBLISH_NAME

DOCS = Path(__file__).parents[2] / "docs"


def test_each_metric_is_listed():
    """The table has each metric, with its labels and its help text, and no other."""
    rows = re.findall(
        r"^\| `(pgnotifier_\w+)` \| (.*?) ?\| (.*) \|$", (DOCS / "monitoring.md").read_text(), re.M
    )
    listed = {name: (labels.strip(), text) for name, labels, text in rows}
    del listed[f"pgnotifier_{PUBLISH_NAME}_seconds"], listed["pgnotifier_build_info"]
    assert listed == {
        one.prometheus_name: (", ".join(f"`{label}`" for label in one.labels), one.help)
        for one in METRICS
    }


def test_names_and_units_follow_the_conventions():
    """Counters end in `_total`; a unit is a base unit and precedes that; names occur once."""
    names = [one.prometheus_name for one in METRICS]
    assert len(names) == len(set(names))
    for one in METRICS:
        assert re.fullmatch(r"pgnotifier_[a-z]+(_[a-z]+)*", one.prometheus_name)
        assert one.prometheus_name.endswith("_total") is (one.kind == "counter")
        assert one.help.endswith(".")


@pytest.fixture
def root_logger():
    """Restore the root logger afterwards."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def recipe(marker):
    """Return the block of code with a text."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "logging.md").read_text(), re.DOTALL)
    (found,) = [block for block in blocks if marker in block]
    return found


@pytest.mark.parametrize(("marker", "text"), [("JsonFormatter", "message"), ("structlog", "event")])
def test_recipes_for_json(root_logger, make_notifier, pgnotifier_dsn, eventually, marker, text):
    """Each record is a line of JSON with its event and fields, also that of a failure."""
    given = {"__name__": "recipe"}
    exec(recipe(marker), given)
    (handler,) = root_logger.handlers
    handler.stream = output = io.StringIO()
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(("bad", 1), "orders", lambda *_: 1 / 0)
    notifier.notify("orders")
    eventually(lambda: "delivery_failed" in output.getvalue())
    notifier.stop()
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    found = {one["pgnotifier_event"]: one for one in lines}
    assert {"listening", "delivery_failed", "stopped"} <= set(found)
    failed = found["delivery_failed"]
    assert failed["level"].upper() == "ERROR"
    assert failed["logger"] == "pgnotifier.reporting"
    assert failed[text] == "subscription ('bad', 1) on channel 'orders' failed"
    assert (failed["channel"], failed["error"]) == ("orders", "ZeroDivisionError")
    assert "ZeroDivisionError: division by zero" in failed["exception"]
