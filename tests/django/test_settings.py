"""Invalid settings: every command of the project works, except for the one that listens."""

import os
from pathlib import Path

import pytest
from django.db import connection

HERE = Path(__file__).parent

COMMANDS = """
import django, sys
from django.core.management import call_command
from django.core.management.base import CommandError, SystemCheckError
django.setup()
for command in (["check"], ["migrate", "--verbosity", "0"], ["makemigrations", "--check"],
                ["showmigrations", "shop"], ["pgnotifier", "--list"]):
    call_command(*command)
    print("done:", *command)
try:
    call_command("pgnotifier", "--noreload", *sys.argv[1:])
except (CommandError, SystemExit) as exc:
    print("refused:", exc)
"""


STRICT = "import warnings\nwarnings.simplefilter('error')\n"


@pytest.fixture
def project(transactional_db, tmp_path, preforked):
    """Return a function that runs commands with some `PGNOTIFIER`, and returns their output."""

    def project(pgnotifier, *argv, script=COMMANDS):
        (tmp_path / "wrong.py").write_text(f"from settings import *\nPGNOTIFIER = {pgnotifier!r}\n")
        file, log = tmp_path / "script.py", tmp_path / "log"
        file.write_text(STRICT + script)
        log.unlink(missing_ok=True)
        database = connection.settings_dict
        dsn = f"dbname={database['NAME']} user={database['USER']} host={database['HOST']}"
        process = preforked.fork(
            "django",
            [str(file), *argv],
            cwd=HERE,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "wrong",
                "PYTHONPATH": f"{tmp_path}{os.pathsep}{HERE}",
                "TEST_DJANGO_DSN": f"{dsn} port={database['PORT']}",
            },
            log=log,
        )
        code, said = process.wait(100), log.read_text()
        assert "Traceback" not in said
        assert code == 0, said
        return said

    return project


@pytest.mark.parametrize(
    ("pgnotifier", "number", "text"),
    [
        ({}, "E012", "tasks need PGNOTIFIER['DISPATCHER']"),
        ({"DISPATCHER": "celry"}, "E006", "PGNOTIFIER['DISPATCHER'] must be a known name"),
        ({"DISPATCHER": "celery"}, "E013", "there is no Celery app"),
        ({"DISPATCHER": "inline", "ON_ERROR": "no.where"}, "E011", "PGNOTIFIER['ON_ERROR']: "),
    ],
)
def test_only_the_listener_refuses(project, pgnotifier, number, text):
    """With invalid settings only the listener refuses to run; the checks say why, too."""
    said = project(pgnotifier)
    done, refused = said.split("refused:")
    for command in ("check", "migrate", "makemigrations", "showmigrations", "pgnotifier --list"):
        assert f"done: {command}" in done
    assert f"pgnotifier.{number}" in done
    assert text in done
    assert text in refused


@pytest.mark.parametrize(
    "pgnotifier",
    [
        {"DISPATCHER": "redis://:hid/den@h/0"},
        {"DISPATCHER": "redis:hidden@h"},
        {"DISPATCHER": "rq", "RQ_QUEUE": "redis://:hid/den@h/0"},
        {"DISPATCHER": "rq", "RQ_QUEUE": "localhost:hidden"},
        {"DISPATCHER": "inline", "ON_GAP": "redis://:hid/den@h/0"},
    ],
)
def test_urls_in_the_wrong_place(project, pgnotifier):
    """If a URL is in the wrong setting, its password is never shown."""
    assert "hid" not in project(pgnotifier)


CHECK = """
import runpy, sys
sys.argv[1:] = ["check"]
sys.exit = print
runpy.run_module("django", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("pgnotifier", "text"),
    [
        ({"BUFFER_SIZE": 0}, "PGNOTIFIER['BUFFER_SIZE'] must be"),
        ({}, "tasks need PGNOTIFIER['DISPATCHER']"),
    ],
)
def test_problems_are_said_once(project, pgnotifier, text):
    """A problem is reported once: by the checks, or by the log of a process without checks."""
    for script in (CHECK, "import django; django.setup()"):
        assert project(pgnotifier, script=script).count(text) == 1


LATE = """
import django
django.setup()
from celery import Celery
app = Celery("late", broker="memory://")
app.loader.import_default_modules()  # as a worker does
print(*sorted(name for name in app.tasks if name.startswith("pgnotifier.")))
"""


def test_a_celery_app_that_is_made_later(project):
    """A Celery app made after `django.setup` has the tasks; one warning is logged."""
    warning, tasks = project({"DISPATCHER": "celery"}, script=LATE).splitlines()
    assert "tasks aren't subscribed" in warning
    assert tasks == "pgnotifier.work pgnotifier.work.async"


def test_channels_without_tasks(project):
    """A listener for channels without tasks ignores an invalid dispatcher."""
    said = project({"DISPATCHER": "celry"}, "--channel", "nothing")
    assert "refused: no subscription on channel 'nothing'" in said
