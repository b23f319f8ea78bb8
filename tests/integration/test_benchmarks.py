"""All benchmarks run; the speeds that they measure aren't tested here."""

import json
import os
import secrets
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pgnotifier.testing import RabbitServer, ServerNotInstalledError
from pgnotifier.testing.rabbitmq import find_rabbitmq

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMPETITORS = {
    "callbacks in the process": 5,
    "CPU of the listening process": 14,
    "tasks in Redis": 4,
    "tasks in Redis, of nested payloads": 2,
    "tasks in RabbitMQ": 5,
    "messages in RabbitMQ": 2,
    "RQ jobs in Redis": 3,
    "tasks for queues in Redis": 3,
    "RQ jobs for queues": 3,
    "traced tasks in Redis": 3,
    "observed callbacks": 6,
    "signals of Django": 3,
    "latency of tasks at 50 a second": 4,
    "latency of tasks at half of saturation": 4,
    "tasks run at saturation": 2,
    "memory of a listener": 5,
    "publishing by 32 writers": 8,
    "publishing by 32 writers, with a reader": 2,
    "durable tasks in Redis": 6,
    "durable tasks in Redis, from four processes": 3,
    "from COMMIT to task, at 50 a second": 6,
    "from COMMIT to task, 8 slow writers": 6,
    "from COMMIT to callback, with many durable subscriptions": 4,
    "rate, with a transaction open for 2 s": 4,
    "latency, with a transaction open for 2 s": 4,
    "10,000 entries through the log": 4,
    "a transaction of 10,000 entries": 2,
    "an outbox into Redis": 4,
    "an outbox into RabbitMQ": 2,
    "enqueueing in a transaction": 3,
    "10 tasks at a time": 2,
    "from COMMIT to task, with an outbox": 4,
    "transactions with an RQ job": 2,
    "an outbox of RQ jobs into Redis": 2,
    "an UPDATE of 1,000 rows": 5,
    "a sender without a pause": 4,
    "a sender at its own pace": 4,
}
GROWING = {"channels", "subscriptions", "bytes of payload", "notifying connections"}


def _has_rabbitmq():
    if os.environ.get("CI") == "true" or os.environ.get(RabbitServer.variable):
        return True
    try:
        find_rabbitmq()
    except ServerNotInstalledError:
        return False
    return True


def _processes_with(variable):
    """Return the command lines of the processes that have a variable in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in environ.read_bytes().split(b"\0"):
                found.append((environ.parent / "cmdline").read_bytes())
        except OSError:  # it has ended, or belongs to another user
            continue
    return found


@pytest.mark.gate
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_quick_run_reports_everything_and_leaves_no_process(tmp_path, eventually):
    """A quick run fills the table, JSON and plot; it fails if a notification is lost."""
    mark = f"BENCHMARK_MARK={secrets.token_hex(8)}"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", "--quick", "--output", tmp_path],
        env=os.environ | dict([mark.split("=")]),
        capture_output=True,
        text=True,
        timeout=880,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    eventually(lambda: not _processes_with(mark))

    found = json.loads((tmp_path / "latest.json").read_text())
    sections = {section["title"]: section for section in found["sections"]}
    expected = {title for title in COMPETITORS if "Rabbit" not in title or _has_rabbitmq()}
    assert {title for title in sections if ": " not in title} == expected
    assert {title.split(": ")[0] for title in sections if ": " in title} == GROWING
    plot = "".join(ET.parse(tmp_path / "latest.svg").getroot().itertext())
    for title, section in sections.items():
        assert len(section["rows"]) == COMPETITORS.get(title, 2)
        assert title in done.stdout
        assert title in plot
        for row in section["rows"]:
            assert len(row["figures"]) == 1
            assert row["name"] in done.stdout
    ratios = {row["name"]: row["ratios"] for row in sections["tasks in Redis"]["rows"]}
    assert ratios["pgnotifier"] == []
    assert ratios["task.delay loop"][0] > 0


def test_a_median_below_its_limit_is_shown(monkeypatch, capsys):
    """A missed limit is shown in the table, and in the result that becomes the exit code."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from report import print_table
    from results import Limit, compare

    rates = {"ours": [10.0, 10.0, 10.0], "theirs": [5.0, 4.0, 20.0]}
    for bound, kept in ((2.0, True), (2.1, False)):
        section = compare("speed", "a second", rates, "ours", {"theirs": Limit(bound)})
        assert print_table([section], judged=True) is kept
        assert ("MISSED" in capsys.readouterr().out) is not kept
