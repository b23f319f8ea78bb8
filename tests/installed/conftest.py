"""Virtual environments in which the wheel is installed with one extra.

They are outside of the source tree, and the servers run outside of them, so that nothing that an
extra lacks is there by accident. They need a package index, so `make test` leaves these tests out:

    .venv/bin/python -m pytest -n 2 tests/installed
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pgnotifier.testing import Command

ROOT = Path(__file__).parents[2]
WHEEL = "PGNOTIFIER_TEST_WHEEL"
"""The environment variable with the path of the wheel to test, for all workers of a run."""


def run(*argv, **options):
    """Run a program, and return the completed process; fail with its output if it fails."""
    done = subprocess.run(
        [*map(str, argv)], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False, timeout=300, **options,
    )  # fmt: skip
    if done.returncode != 0:
        program = " ".join(map(str, argv))
        pytest.fail(f"{program} ended with code {done.returncode}:\n{done.stdout}", pytrace=False)
    return done


def uv(*arguments):
    """Run uv in the project's root, with hard links into its cache, which takes less time."""
    env = {"UV_LINK_MODE": "hardlink", **os.environ}
    return run(ROOT / "scripts" / "uv", *arguments, cwd=ROOT, env=env)


def pytest_configure(config):
    """Build the wheel once for all workers, unless the environment variable names one."""
    if WHEEL not in os.environ:
        directory = TemporaryDirectory(prefix="pgnotifier-wheel-")
        config.add_cleanup(directory.cleanup)
        config.add_cleanup(lambda: os.environ.pop(WHEEL))
        uv("build", "--quiet", "--out-dir", directory.name)
        (wheel,) = Path(directory.name).glob("*.whl")
        os.environ[WHEEL] = str(wheel)


@pytest.fixture(scope="session")
def wheel():
    """Return the path of the wheel."""
    return Path(os.environ[WHEEL])


class Environment:
    """A virtual environment with the wheel and one extra, and a directory to work in."""

    def __init__(self, directory, python):
        self.directory = directory / "work"
        self.directory.mkdir()
        self._home = directory / "environment"
        self._commands = []
        uv("venv", "--quiet", "--no-project", "--python", python, self._home)

    def install(self, wheel, extra=None, resolution="newest"):
        """Install the wheel with an extra, and the newest or lowest versions that it requires."""
        arguments = ["--quiet", "--python", self.find("python")]
        if resolution == "lowest":
            # For uv, the direct dependencies are those of a pyproject.toml, and not a wheel's.
            constraints = self._home / "lowest.txt"
            chosen = ["--extra", extra] if extra else []
            uv("pip", "compile", *arguments, "--resolution", "lowest-direct", *chosen,
               "--output-file", constraints, "pyproject.toml")  # fmt: skip
            arguments += ["--constraints", constraints]
        uv("pip", "install", *arguments, f"{wheel}[{extra}]" if extra else wheel)
        uv("pip", "check", *arguments[:3])
        print(uv("pip", "freeze", *arguments[:3]).stdout)  # shown if the test fails

    def find(self, program):
        """Return the path of one of the environment's programs."""
        return self._home / "bin" / program

    def run(self, program, *arguments, **options):
        """Run one of the environment's programs to its end; see `run` above."""
        return run(self.find(program), *arguments, cwd=self.directory, **options)

    def start(self, program, *arguments, env=None, ready=""):
        """Start one of the environment's programs, and return it once it is ready."""
        argv = (str(self.find(program)), *arguments)
        command = Command(argv, env=env, directory=self.directory, ready=ready)
        command.__enter__()
        self._commands.append((argv, command))
        return command

    def close(self):
        """End the programs that run, and print their logs, which are shown if the test fails."""
        for argv, command in reversed(self._commands):
            print(" ".join(argv), command.log, sep="\n")
            command.__exit__(None, None, None)


@contextmanager
def make_environment(python=sys.executable):
    """Yield an empty environment, which is deleted afterwards."""
    with TemporaryDirectory(prefix="pgnotifier-installed-") as directory:
        environment = Environment(Path(directory), python)
        try:
            yield environment
        finally:
            environment.close()


@pytest.fixture(scope="module")
def bare(wheel):
    """Yield an environment with the wheel and no extra."""
    with make_environment() as environment:
        environment.install(wheel)
        yield environment


def _find_cells():
    """Return the pairs of a resolution and a Python to test."""
    cells = [("newest", sys.executable)]
    if sys.version_info < (3, 14):  # for which the lowest versions have no wheels
        cells.append(("lowest", sys.executable))
    newer = subprocess.run([ROOT / "scripts" / "newer_python"], capture_output=True, text=True)
    if newer.returncode == 0 and sys.version_info[:2] not in ((3, 12), (3, 13)):
        cells += [(resolution, newer.stdout.strip()) for resolution in ("newest", "lowest")]
    return cells


def _name(cell):
    resolution, python = cell
    return (
        resolution if python == sys.executable else f"{resolution}, {Path(python).resolve().name}"
    )


@pytest.fixture(params=_find_cells(), ids=_name)
def install(request, wheel):
    """Yield a function that installs the wheel, with or without an extra, in an environment."""
    resolution, python = request.param
    with make_environment(python) as environment:

        def install(extra=None):
            environment.install(wheel, extra, resolution)
            return environment

        yield install
