"""The example runs as its README says: the commands are taken from it."""

import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "celery_app"


def _blocks(language):
    readme = (EXAMPLE / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)


@pytest.fixture
def shell(tmp_path, pgnotifier_dsn, pgnotifier_redis_url, preforked):
    """Yield a function that runs a command of the README in a copy of the example's directory.

    It returns the output, or for a worker or listener the process and its log.
    """
    directory = tmp_path / "celery_app"
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns("__pycache__"))
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SHOP_DSN": pgnotifier_dsn,
        "SHOP_BROKER": pgnotifier_redis_url,
    }
    running = []

    def run(command):
        program, *argv = shlex.split(command)
        if program == "python":
            done = preforked.run("core", argv, cwd=directory, env=env)
            assert done.returncode == 0, done.stderr
            return done.stdout
        assert program == "celery"
        log = directory / f"{argv[2]}.log"
        log.touch()
        celery = [sys.executable, "-m", program, *argv]
        process = preforked.start(celery, cwd=directory, env=env, log=log)
        running.append(process)
        return process, log

    yield run
    for process in running:
        process.kill_group()
        process.wait(10)


def test_as_its_readme_says(shell, eventually):
    """The README's commands, run in order, lead to the report that the README shows."""
    commands = [line for block in _blocks("sh") for line in block.splitlines()]
    assert commands[1].startswith("export SHOP_DSN=")
    create, worker, listener, produce, report = commands[2:]

    shell(create)
    celery, worker_log = shell(worker)
    eventually(lambda: "ready." in worker_log.read_text() or celery.poll() is not None, 60)
    pgnotifier, listener_log = shell(listener)
    eventually(lambda: "listening" in listener_log.read_text() or pgnotifier.poll() is not None, 60)
    shell(produce)
    _, expected = _blocks("text")
    eventually(lambda: shell(report) == expected, 60)

    assert "counted 10 on order_placed" in listener_log.read_text()
    assert "counted 5 on image_uploaded" in listener_log.read_text()
    pgnotifier.send_signal(signal.SIGINT)
    assert pgnotifier.wait(30) == 0
    celery.send_signal(signal.SIGINT)
    celery.wait(30)  # its exit code depends on Celery
    for log in (listener_log, worker_log):
        assert "Traceback" not in log.read_text()
