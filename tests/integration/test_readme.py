"""The README's programs run unchanged, except for the addresses of the servers."""

import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

BIN = Path(sys.executable).parent
README = Path(__file__).parents[2] / "README.md"


def _program(marker):
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if marker in block]
    return found


def test_length():
    """The README has fewer than 150 lines; the rest is in docs/."""
    assert len(README.read_text().splitlines()) < 150


@pytest.fixture
def start(tmp_path, preforked):
    """Yield a function that starts a command in a directory, and returns it with its log."""
    running = []

    def run(name, *argv):
        log = tmp_path / f"{name}.log"
        log.touch()
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = preforked.start(argv, cwd=tmp_path, env=env, log=log)
        running.append(process)
        return process, log

    yield run
    for process in running:
        process.kill_group()
        process.wait(10)


def test_the_plain_callback(start, tmp_path, db, eventually):
    """The plain callback's program prints notifications; Ctrl-C ends it without a traceback."""
    place = '{"dbname": "shop", "host": "localhost"}'
    program = _program(place).replace(place, repr(conninfo_to_dict(db.dsn)))
    # Before its last line, Ctrl-C would interrupt it like any program.
    (tmp_path / "script.py").write_text(f"{program}\nprint('that was all')\n")
    process, log = start("script", sys.executable, "script.py")
    eventually(lambda: "that was all" in log.read_text() or process.poll() is not None)

    def is_printed():
        db.notify("orders", '{"total": 9.5}')
        return "orders: {'total': 9.5} from session" in log.read_text()

    eventually(is_printed)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert "Traceback" not in log.read_text()


def test_the_celery_app(start, tmp_path, db, pgnotifier_redis_url, eventually):
    """The Celery program's callback runs in a worker once the listener listens."""
    program = _program("CeleryNotifier")
    for place, ours in (
        ("postgresql://localhost/shop", db.dsn),
        ("redis://localhost:6379/0", pgnotifier_redis_url),
    ):
        assert place in program
        program = program.replace(place, ours)
    (tmp_path / "shop.py").write_text(program)
    celery = [sys.executable, "-m", "celery", "-A", "shop"]
    _, worker_log = start("worker", *celery, "worker", "--pool", "solo")
    listener, listener_log = start("listener", *celery, "pgnotifier")
    eventually(lambda: "listening" in listener_log.read_text() or listener.poll() is not None, 60)
    db.notify("image_uploaded", '{"path": "/covers/1.png"}')
    eventually(lambda: "resizing /covers/1.png" in worker_log.read_text(), 60)
    listener.send_signal(signal.SIGTERM)
    assert listener.wait(30) == 0


def test_a_durable_subscription(start, tmp_path, db, pgnotifier_redis_url, eventually):
    """With an id and durable=True, and the README's commands, nothing is missed meanwhile."""
    text = README.read_text()
    ((install, publish),) = re.findall(r"^(pgnotifier install.*)\n(psql .*)$", text, re.MULTILINE)
    durable = '@notifier.on("image_uploaded", id="resize", durable=True)'
    assert f"`{durable}`" in text
    program = _program("CeleryNotifier")
    for place, ours in (
        ("postgresql://localhost/shop", db.dsn),
        ("redis://localhost:6379/0", pgnotifier_redis_url),
        ('@notifier.on("image_uploaded", id="resize")', durable),
    ):
        assert place in program
        program = program.replace(place, ours)
    (tmp_path / "shop.py").write_text(program)
    _, verb, option, place, *_ = shlex.split(install, comments=True)
    assert place == "postgresql://localhost/shop"
    installing, _ = start("install", BIN / "pgnotifier", verb, option, db.dsn)
    assert installing.wait(60) == 0
    statement = shlex.split(publish)[-1]
    assert statement.startswith("SELECT pgnotifier.publish('image_uploaded', ")

    celery = [sys.executable, "-m", "celery", "-A", "shop"]
    listener, log = start("first", *celery, "pgnotifier")
    has_position = "SELECT 1 FROM pgnotifier.subscription"
    eventually(lambda: db.execute(has_position) or listener.poll() is not None, 60)
    assert listener.poll() is None, log.read_text()
    listener.send_signal(signal.SIGTERM)
    assert listener.wait(30) == 0
    db.execute(statement)  # while nobody listens
    _, worker_log = start("worker", *celery, "worker", "--pool", "solo")
    start("second", *celery, "pgnotifier")
    eventually(lambda: "resizing /covers/1.png" in worker_log.read_text(), 60)


def test_a_transaction(start, tmp_path, db, pgnotifier_redis_url, eventually):
    """A task that is published in a block of the outbox runs if its transaction commits."""
    program, block = _program("CeleryNotifier"), _program("notifier.outbox")
    for place, ours in (
        ("postgresql://localhost/shop", db.dsn),
        ("redis://localhost:6379/0", pgnotifier_redis_url),
    ):
        assert place in program
        program = program.replace(place, ours)
    outbox, publishing = block.split("\n", 1)
    task = '@app.task\ndef invoice(order):\n    print(f"an invoice for {order}")\n'
    (tmp_path / "shop.py").write_text(f"{program}\n\n{outbox}\n\n\n{task}")
    rolled_back = publishing.replace("7", "8") + "connection.rollback()\n"
    (tmp_path / "script.py").write_text(
        "import psycopg\nfrom shop import invoice, outbox\n"
        f"connection = psycopg.connect({db.dsn!r})\n"
        f"{rolled_back}{publishing}connection.commit()\n"
    )
    installing, _ = start("install", BIN / "pgnotifier", "install", "--dsn", db.dsn)
    assert installing.wait(60) == 0
    script, log = start("script", sys.executable, "script.py")
    assert script.wait(60) == 0, log.read_text()
    celery = [sys.executable, "-m", "celery", "-A", "shop"]
    _, worker_log = start("worker", *celery, "worker", "--pool", "solo")
    start("listener", *celery, "pgnotifier")
    eventually(lambda: "an invoice for 7" in worker_log.read_text(), 60)
    assert "an invoice for 8" not in worker_log.read_text()


def test_the_rq_module(start, tmp_path, db, pgnotifier_redis_url, eventually):
    """The RQ program's callback runs in a worker once the listener listens."""
    program = _program("RQDispatcher")
    for place, ours in (
        ("postgresql://localhost/shop", db.dsn),
        ("redis://localhost:6379/0", pgnotifier_redis_url),
    ):
        assert place in program
        program = program.replace(place, ours)
    (tmp_path / "shop.py").write_text(program)
    rq = (BIN / "rq", "worker", "--path", ".", "--url", pgnotifier_redis_url, "default")
    _, worker_log = start("worker", *rq)
    listener, listener_log = start("listener", BIN / "pgnotifier", "listen", "shop:notifier")
    eventually(lambda: "listening" in listener_log.read_text() or listener.poll() is not None, 60)
    db.notify("image_uploaded", '{"path": "/covers/1.png"}')
    eventually(lambda: "resizing /covers/1.png" in worker_log.read_text(), 60)
    listener.send_signal(signal.SIGTERM)
    assert listener.wait(30) == 0
