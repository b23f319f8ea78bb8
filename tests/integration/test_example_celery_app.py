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


def _commands():
    """Return the README's commands on servers of your own."""
    commands = [line for block in _blocks("sh") for line in block.splitlines()]
    assert commands[1].startswith("export SHOP_DSN=")
    return commands[2:]


@pytest.fixture
def shell(tmp_path, pgnotifier_dsn, pgnotifier_redis_url, preforked, eventually):
    """Yield a function that runs a command of the README in a copy of the example's directory.

    It returns the output, or for a worker or listener the process and its log, once it is ready.
    """
    directory = tmp_path / "celery_app"
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns("__pycache__"))
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SHOP_DSN": pgnotifier_dsn,
        "SHOP_BROKER": pgnotifier_redis_url,
        "TMPDIR": str(tmp_path),  # for the files that a killed worker leaves
    }
    running = []

    def run(command, ready=""):
        program, *argv = shlex.split(command)
        if program == "python":
            done = preforked.run("core", argv, cwd=directory, env=env)
            assert done.returncode == 0, done.stderr
            return done.stdout
        assert program == "celery"
        log = directory / f"{len(running)}.log"
        log.touch()
        celery = [sys.executable, "-m", program, *argv]
        process = preforked.start(celery, cwd=directory, env=env, log=log)
        running.append(process)
        eventually(lambda: ready in log.read_text() or process.poll() is not None, 60)
        return process, log

    yield run
    for process in running:
        process.kill_group()
        process.wait(10)


def test_as_its_readme_says(shell, eventually):
    """The README's commands, run in order, lead to the report that the README shows."""
    create, worker, listener, produce, report = _commands()
    shell(create)
    celery, worker_log = shell(worker, "ready.")
    pgnotifier, listener_log = shell(listener, "listening")
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


@pytest.mark.long
@pytest.mark.timeout(400)
def test_each_order_gets_its_invoice(shell, eventually):
    """Each order is invoiced though listener and worker are killed, and orders placed meanwhile."""
    create, worker, listener, produce, report = _commands()
    shell(create)
    shell(produce)  # before there is a subscription
    celery, _ = shell(worker, "ready.")
    pgnotifier, _ = shell(listener, "listening")
    eventually(lambda: shell(report).startswith("10 of 10 orders invoiced"), 60)

    pgnotifier.kill_group()
    shell(produce)
    assert shell(report).startswith("10 of 20 orders invoiced")
    pgnotifier, _ = shell(listener, "listening")
    eventually(lambda: shell(report).startswith("20 of 20 orders invoiced"), 120)

    celery.kill_group()
    shell(produce)
    pgnotifier.kill_group()
    shell(produce)
    shell(worker, "ready.")
    shell(listener, "listening")
    eventually(lambda: shell(report).startswith("40 of 40 orders invoiced"), 120)
