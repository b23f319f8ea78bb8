"""The options that name a database: which one counts, and what is said if it can't be found."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pgnotifier.cli.target import target_options

SECRET = "s3cret-word"
DSN = f"postgresql://shop:{SECRET}@db/shop"
UNUSED = ("PGNOTIFIER_DSN", "DJANGO_SETTINGS_MODULE", "PGSERVICE", "PGHOST", "PGDATABASE")
_numbers = itertools.count()


@click.group(invoke_without_command=True)
@target_options
def group(target):
    """Print what was found."""
    show(target)


@group.command("command")
@target_options
@click.option("--fails", is_flag=True)
def subcommand(target, fails):
    """Print what was found, or connect."""
    show(target)
    if fails:
        with target.connected():
            pass


def show(target):
    """Print a target."""
    click.echo(f"{target.parameters!r} | {target.named_by} | {len(target.notifiers)}")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs the command in an own directory; nothing shows the password."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*arguments, **env):
        env = {**dict.fromkeys(UNUSED), **env}
        done = CliRunner().invoke(group, arguments, env=env)
        assert SECRET not in done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.output

    return run


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a module, and returns its name."""

    def write(text):
        name = f"written_{os.getpid()}_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


NOTIFIER = f"""
from pgnotifier import Notifier

notifier = Notifier({DSN!r}, autorun=False)
notifier.add_channel("orders", autorun=False)
"""
APP = """
from celery import Celery

app = Celery("shop", set_as_current=False)
"""


def test_nothing_given(run):
    """Without options, libpq's variables and defaults count."""
    assert run("command") == (0, "libpq's defaults |  | 0\n")
    assert "host=db" in run("command", PGHOST="db")[1]
    assert "service=shop" in run("command", PGSERVICE="shop")[1]


def test_a_connection_string(run):
    """--dsn comes before its environment variable, which comes before those of libpq."""
    assert run("command", "--dsn", DSN)[1].startswith("host=db dbname=shop user=shop |")
    assert "host=db" in run("command", PGNOTIFIER_DSN=DSN, PGHOST="other")[1]
    assert "host=a" in run("command", "-d", "host=a", PGNOTIFIER_DSN=DSN)[1]


@pytest.mark.parametrize("dsn", [f"postgresql://u:{SECRET}@a@b/c", f"pasword={SECRET}", "host=a b"])
def test_a_wrong_connection_string(run, dsn):
    """What libpq can't read is an error in one line, without the password."""
    code, said = run("command", "--dsn", dsn)
    assert code == 2
    assert "Traceback" not in said


def test_a_server_that_is_not_there(run):
    """A connection that fails is one line and exit code 1."""
    code, said = run("command", "--fails", "--dsn", f"host=/nowhere password={SECRET}")
    assert (code, said.count("Error:")) == (1, 1)


def test_options_of_a_group(run):
    """A subcommand takes the options of its group, unless it has some of its own."""
    assert "host=a" in run("--dsn", "host=a", "command", PGNOTIFIER_DSN="host=b")[1]
    assert "host=c" in run("--dsn", "host=a", "command", "--dsn", "host=c")[1]
    assert "host=a" in run("--dsn", "host=a")[1]
    assert "host=c" in run("--app", "no_such_app", "command", "--dsn", "host=c")[1]


def test_a_module(run, write):
    """--module takes the database of its notifier, whatever the environment says."""
    code, said = run("command", "-m", write(NOTIFIER), PGNOTIFIER_DSN="host=other")
    assert (code, said.split(" | ")[0]) == (0, "host=db dbname=shop user=shop")
    assert said.endswith("| 1\n")


@pytest.mark.parametrize("option", ["--module", "--app"])
def test_a_module_that_is_not_there(run, option):
    """The error names the module and says where it is looked for."""
    code, said = run("command", option, "no_such_module")
    assert (code, "no module 'no_such_module'" in said) == (2, True)
    assert "Traceback" not in said


@pytest.mark.parametrize("option", ["--module", "--app"])
def test_a_module_that_raises(run, write, option):
    """What a module raises is shown with its traceback, and in one line."""
    for error in ("ValueError", "AttributeError", "KeyError"):
        code, said = run("command", option, write(f"raise {error}('no luck')"))
        assert (code, f"can't be imported: {error}: " in said) == (2, True)
        assert "no luck" in said


@pytest.mark.parametrize("option", ["--module", "--app"])
def test_a_module_that_imports_what_is_missing(run, write, option):
    """The module that is missing is named, not the one that was given."""
    code, said = run("command", option, write("import not_installed_here"))
    assert (code, "not_installed_here" in said) == (2, True)


@pytest.mark.parametrize("option", ["--module", "--app"])
def test_a_module_that_exits(run, write, option):
    """A module that ends the process ends the command, with its code."""
    assert run("command", option, write("raise SystemExit(7)"))[0] == 7


@pytest.mark.parametrize("name", ["", ":", "a b", "../a", "a:b:c", "a:"])
def test_names_that_are_none(run, name):
    """What can't be the name of a module is an error of the command line, or isn't given at all."""
    for option in ("--module", "--app"):
        code, said = run("command", option, name)
        assert code == (2 if name else 0), said


def test_a_module_without_a_notifier(run, write):
    """A module without a notifier, or with one that has no channel, is an error."""
    assert "has no Notifier called 'notifier'" in run("command", "-m", write(""))[1]
    empty = NOTIFIER.replace("notifier.add_channel", "#")
    assert "has no channel" in run("command", "-m", write(empty))[1]


def test_an_app_without_a_notifier(run, write):
    """The setting of an app counts if it has no notifier; without one, the error names it."""
    code, said = run("command", "-A", write(APP))
    assert (code, "pgnotifier_dsn" in said) == (2, True)
    code, said = run("command", "-A", write(f"{APP}app.conf.pgnotifier_dsn = {DSN!r}\n"))
    assert (code, said.split(" | ")[0]) == (0, "host=db dbname=shop user=shop")


def test_a_notifier_of_an_app(run, write):
    """The database of an app's notifier counts, and --dsn replaces it."""
    text = f"""{APP}app.conf.pgnotifier_dsn = {DSN!r}
from pgnotifier.contrib.celery import CeleryNotifier

notifier = CeleryNotifier(app)
"""
    name = write(text)
    assert run("command", "-A", name) == (
        0,
        f"host=db dbname=shop user=shop | -A {name} | 1\n",
    )
    assert run("command", "-A", name, "--dsn", "host=a")[1] == f"host=a | --dsn, -A {name} | 1\n"


def test_a_module_without_an_app(run, write):
    """A module without a Celery app is an error."""
    assert "has no Celery app" in run("command", "-A", write("x = 1"))[1]


def test_several(run):
    """Only one of --app, --module and --settings can be given; --database needs the last."""
    code, said = run("command", "-A", "a", "-m", "b")
    assert (code, "--app and --module can't be given together" in said) == (2, True)
    assert "--database needs --settings" in run("command", "--database", "a")[1]


SETTINGS = f"""
SECRET_KEY = "x"
INSTALLED_APPS = ["pgnotifier.contrib.django"]
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "db", "NAME": "shop", "USER": "shop", "PASSWORD": "{SECRET}",
    }},
    "lite": {{"ENGINE": "django.db.backends.sqlite3"}},
}}
"""
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from click.testing import CliRunner
from test_target import group
for line in sys.stdin.read().splitlines():
    env = {"DJANGO_SETTINGS_MODULE": sys.argv[2]}
    done = CliRunner().invoke(group, ["command", *line.split()], env=env)
    print(done.exit_code, " ".join(done.output.splitlines()))
"""


@pytest.mark.slow
def test_django(run, write, tmp_path):
    """--settings or the environment names a project; its settings are read, and errors shown."""
    settings, broken = write(SETTINGS), write("raise ValueError('no luck')")
    lines = [
        f"--settings {broken}",
        "--settings no_such_settings",
        "",
        f"--settings {settings} --database lite",
        f"--settings {settings} --database nope",
        f"--settings {settings} --dsn host=a",
        "--dsn host=b",
    ]
    env = {name: value for name, value in os.environ.items() if name not in UNUSED}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, Path(__file__).parent, settings],
        input="\n".join(lines),
        env=env,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    assert SECRET not in done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert "no luck" in said[0]
    assert "no_such_settings" in said[1]
    assert said[2].startswith("0 host=db dbname=shop user=shop | the Django settings")
    assert [one[:2] for one in said[3:5]] == ["2 ", "2 "]
    assert "doesn't have NOTIFY" in said[3]
    assert "nope" in said[4]
    assert said[5].startswith("0 host=a | --dsn, the Django settings")
    assert said[6].startswith("0 host=b |")
