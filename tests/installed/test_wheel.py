"""The contents of the wheel, and the messages if an extra is missing."""

import subprocess
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = {
    ("pgnotifier", "demo"): "demo",
    ("pgnotifier", "listen", "shop"): "cli",
    ("pgnotifier", "health", "--port", "80"): "cli",
    ("python", "-m", "pgnotifier", "listen", "shop"): "cli",
    ("python", "-c", "import pgnotifier.contrib.celery"): "celery",
    ("python", "-c", "import pgnotifier.contrib.celery.command"): "celery",
    ("python", "-c", "import pgnotifier.contrib.rq"): "rq",
    ("python", "-c", "import pgnotifier.contrib.django"): "django",
}


def test_the_files(wheel):
    """The wheel, which is built from the source distribution, has every file of the package."""
    package = ROOT / "pgnotifier"
    files = [path for path in package.rglob("*") if path.is_file()]
    expected = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == expected
    assert "pgnotifier/py.typed" in packed


def test_the_extras(wheel):
    """The wheel has the extras that the documentation names, and no others."""
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = PathDistribution(zipfile.Path(archive, f"{info}/")).metadata
    assert set(metadata.get_all("Provides-Extra")) == {
        *("alembic", "celery", "cli", "console", "demo", "django", "opentelemetry", "prometheus"),
        *("rq", "sentry", "top"),
    }


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_missing_extra(bare, command):
    """A command or module that lacks its extra names the extra to install."""
    program, *arguments = command
    done = subprocess.run(
        [bare.find(program), *arguments], cwd=bare.directory, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"pip install 'pgnotifier[{COMMANDS[command]}]'" in done.stderr.strip().splitlines()[-1]
    assert (program == "pgnotifier") <= ("Traceback" not in done.stderr)
