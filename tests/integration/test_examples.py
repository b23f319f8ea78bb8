"""Each example runs with the command of its README, and prints the README's output."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

CONFIGURATION = {"deploy", "monitoring"}
"""Examples of configuration, which tests of their own have the programs read."""


def blocks(readme, language):
    """Return the code blocks in a language of a README."""
    return re.findall(rf"^```{language}\n(.*?)^```", readme.read_text(), re.DOTALL | re.MULTILINE)


NAMES = sorted(found.parent.name for found in EXAMPLES.glob("*/run.py"))
SLOW = {"celery_app", "django_app", "fastapi_app", "outbox_app"}
"""Examples with further tests of their parts or of what they show, on servers that tests share."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.gate] if name in SLOW else []) for name in NAMES],
)
def test_by_one_command(name, tmp_path):
    """An example runs with its own servers, prints the README's output, and leaves no files."""
    readme = EXAMPLES / name / "README.md"
    assert blocks(readme, "sh")[0] == "pip install -r requirements.txt && python run.py\n"
    # The tests' environment has the example's requirements, and this pgnotifier.
    directory, temporary = tmp_path / name, tmp_path / "tmp"
    shutil.copytree(EXAMPLES / name, directory, ignore=shutil.ignore_patterns("__pycache__"))
    temporary.mkdir(mode=0o755)
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=directory,
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout == blocks(readme, "text")[0]
    assert not [*temporary.iterdir()]


def test_all_examples_are_there():
    """Every application has a README, a `run.py` and its requirements."""
    for directory in filter(Path.is_dir, EXAMPLES.iterdir()):
        found = {one.name for one in directory.iterdir()}
        assert "README.md" in found
        assert directory.name in CONFIGURATION or {"run.py", "requirements.txt"} <= found
