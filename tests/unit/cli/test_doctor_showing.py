"""How `pgnotifier doctor` prints findings, and asks with a deadline."""

import threading

import pytest

from pgnotifier.cli.doctor.asking import NoAnswerError, within
from pgnotifier.cli.doctor.findings import clean, failed, ok, warning
from pgnotifier.cli.doctor.server import compare_clocks
from pgnotifier.cli.doctor.showing import Report


def test_many_findings(capsys):
    """Of many findings of one kind ten are printed, and the others are counted."""
    report = Report()
    for number in range(25):
        report.add(failed("tasks", f"Task {number} is unknown.", "Restart the worker."))
    report.add(warning("clock", "It is late.", "Set it."))
    report.add(ok("broker", "It answers."))
    report.end()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FAILED   tasks         Task 0 is unknown. → Restart the worker."
    assert [line[:8].strip() for line in lines[:-1]] == [
        *["FAILED"] * 10,
        "warning",
        "ok",
        "FAILED",
    ]
    assert "15 more" in lines[-2]
    assert lines[-1] == "25 failures and 1 warning in 27 checks."


def test_all_is_well(capsys):
    """Without failures and warnings, the last line says so."""
    report = Report()
    report.add(ok("broker", "It answers."))
    report.end()
    assert capsys.readouterr().out.endswith("All is well.\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines", "two lines"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202eright to left", "\\u202eright to left"),
        ("é → 漢", "é → 漢"),
        ("redis://:sesame@h/0 and hidden-word", "redis://:***@h/0 and ***"),
        ("password=sesame", "password=***"),
    ],
)
def test_what_a_finding_never_shows(text, shown):
    """Findings show no password, and nothing that a terminal would obey."""
    assert clean(text, ["hidden-word"]) == shown


def test_a_deadline():
    """What takes too long is given up, and its result is discarded when it comes."""
    go, discarded = threading.Event(), threading.Event()
    with pytest.raises(NoAnswerError, match=r"no answer within 0\.05 s"):
        within(0.05, go.wait, lambda _: discarded.set())
    go.set()
    assert discarded.wait(30)
    assert within(30, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(30, lambda: 1 / 0)


@pytest.mark.parametrize(
    ("there", "before", "after", "level"),
    [
        (1000.0, 1000.0, 1000.0, "ok"),
        (1001.9, 1000.0, 1000.0, "ok"),
        (1002.1, 1000.0, 1000.0, "warning"),
        (997.0, 1000.0, 1000.0, "warning"),
        (1002.0, 1000.0, 1010.0, "ok"),  # the answer took longer than that
        (1600.0, 1000.0, 1000.0, "failed"),
        (400.0, 1000.0, 1000.0, "failed"),
    ],
)
def test_clocks(there, before, after, level):
    """Clocks may differ by less than two seconds, and by what the question took."""
    assert compare_clocks("the server", there, before, after).level == level
