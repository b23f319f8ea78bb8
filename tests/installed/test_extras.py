"""Each extra works by itself, from the wheel, with the newest and the lowest versions."""

import re
import shutil
import urllib.request
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from terminals import Terminal

README = Path(__file__).parents[2] / "README.md"
PROJECT = Path(__file__).parent / "django_project"


def write_program(environment, name, marker, *replacements):
    """Write one of the README's programs, with the addresses of the test's servers."""
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    (program,) = [block for block in blocks if marker in block]
    for place, ours in replacements:
        assert place in program
        program = program.replace(place, ours)
    (environment.directory / name).write_text(program)


def write_callback(environment, dsn):
    """Write the README's program with a plain callback."""
    place = '{"dbname": "shop", "host": "localhost"}'
    write_program(environment, "plain.py", place, (place, repr({**conninfo_to_dict(dsn)})))


def test_core(install, db, eventually):
    """Without an extra, a plain callback is called, and no framework is imported."""
    environment = install()
    write_callback(environment, db.dsn)
    program = environment.start("python", "-W", "error", "plain.py")

    def is_delivered():
        db.notify("orders", '{"total": 9.5}')
        return "orders: {'total': 9.5} from session" in program.log

    eventually(is_delivered)
    loaded = environment.run("python", "-c", "import pgnotifier, sys; print(*sys.modules)").stdout
    frameworks = {"celery", "kombu", "redis", "rq", "django", "click", "rich"}
    assert not frameworks & set(loaded.split())


def test_celery(install, db, pgnotifier_redis_url):
    """With the extra celery, a notification becomes a task, which a worker with Redis runs."""
    environment = install("celery")
    write_program(
        environment, "shop.py", "CeleryNotifier",
        ("postgresql://localhost/shop", db.dsn), ("redis://localhost:6379/0", pgnotifier_redis_url),
    )  # fmt: skip
    worker = environment.start("celery", "-A", "shop", "worker", "-l", "INFO", ready=" ready.")
    listener = environment.start(
        "celery", "-A", "shop", "pgnotifier", "-l", "DEBUG", ready="listening"
    )
    for number in range(3):
        db.notify("image_uploaded", f'{{"path": "/covers/{number}.png"}}')
        worker.wait_for(f"resizing /covers/{number}.png")
    assert "goes through apply_async" not in listener.log  # that path is correct, but slow
    assert "Traceback" not in worker.log + listener.log


def test_rq(install, db, pgnotifier_redis_url):
    """With the extra rq, a notification becomes a job, which a worker of RQ runs."""
    environment = install("rq")
    write_program(
        environment, "shop.py", "RQDispatcher",
        ("postgresql://localhost/shop", db.dsn), ("redis://localhost:6379/0", pgnotifier_redis_url),
    )  # fmt: skip
    worker = environment.start(
        "rq", "worker", "--path", ".", "--url", pgnotifier_redis_url, "default", ready="istening on"
    )
    listener = environment.start(
        "pgnotifier", "listen", "shop:notifier", "-l", "DEBUG", ready="listening"
    )
    db.notify("image_uploaded", '{"path": "/covers/1.png"}')
    worker.wait_for("resizing /covers/1.png")
    assert "jobs of 'resize' are made by stamped" in listener.log  # the other paths are slow
    assert "Traceback" not in worker.log + listener.log


def test_django(install, db):
    """`manage.py pgnotifier` calls a receiver, and the system checks find nothing."""
    environment = install("django")
    shutil.copytree(PROJECT, environment.directory, dirs_exist_ok=True)
    parameters = conninfo_to_dict(db.dsn)
    env = {f"SHOP_{name.upper()}": str(value) for name, value in parameters.items()}
    environment.run("python", "manage.py", "migrate", env=env)
    task = (
        "from pgnotifier.contrib.django.task_dispatcher import notification; "
        "notification.using(queue_name='default')"  # old versions of django-tasks can't do this
    )
    for command in (("check",), ("shell", "--command", task)):
        environment.run("python", "-W", "error", "manage.py", *command, env=env)
    command = ("manage.py", "pgnotifier", "--noreload")
    listener = environment.start("python", *command, env=env, ready="listening")
    db.notify("orders", '{"total": 9.5}')
    listener.wait_for("recounting {'total': 9.5}")
    assert "Traceback" not in listener.log


MIGRATION = """
import sys
import psycopg
from alembic.migration import MigrationContext
from alembic.operations import Operations
import sqlalchemy
import pgnotifier.contrib.alembic

make = lambda: psycopg.connect(sys.argv[1])
engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=make)
with engine.begin() as connection:
    op = Operations(MigrationContext.configure(connection))
    op.install_pgnotifier(version=1, publishers=["pg_monitor"])
    print(connection.exec_driver_sql("SELECT pgnotifier.publish('orders', '1')").scalar())
    op.uninstall_pgnotifier()
engine.dispose()
"""


def test_alembic(install, db):
    """With the extra alembic, a migration installs the durable log."""
    environment = install("alembic")
    done = environment.run("python", "-W", "error", "-c", MIGRATION, db.dsn)
    assert done.stdout.strip() == "1"


PROGRAM = """
import sys, threading
from pgnotifier import Notifier

came = threading.Event()
def callback(*_):
    SEEN
    came.set()

SET_UP
notifier.subscribe("orders", "orders", callback)
notifier.notify("orders", {"total": 9.5})
assert came.wait(30)
SHOW
notifier.stop()
"""


def test_prometheus(install, db, free_port):
    """With the extra prometheus, `/metrics` is answered on the health port."""
    environment = install("prometheus")
    set_up = (
        "from pgnotifier.contrib.prometheus import expose; expose(); "
        f"notifier = Notifier(sys.argv[1], health_port={free_port})"
    )
    show = (
        "import urllib.request; "
        f"print(urllib.request.urlopen('http://127.0.0.1:{free_port}/metrics').read().decode())"
    )
    program = PROGRAM.replace("SET_UP", set_up).replace("SHOW", show).replace("SEEN", "pass")
    done = environment.run("python", "-W", "error", "-c", program, db.dsn)
    assert "pgnotifier_received_total{" in done.stdout
    assert 'pgnotifier_publish_duration_seconds_count{kind="notify"} 1.0' in done.stdout


def test_opentelemetry(install, db):
    """With the extra opentelemetry, which is the API alone, a notifier works without spans."""
    environment = install("opentelemetry")
    set_up = (
        "from pgnotifier.contrib.opentelemetry import instrument, measure; "
        "notifier = instrument(Notifier(sys.argv[1])); measure(notifier)"
    )
    seen = "from opentelemetry import trace; print(trace.get_current_span().is_recording())"
    program = PROGRAM.replace("SET_UP", set_up).replace("SHOW", "pass").replace("SEEN", seen)
    assert environment.run("python", "-W", "error", "-c", program, db.dsn).stdout == "False\n"


SENTRY = """
import sentry_sdk
from pgnotifier.contrib.sentry import instrument
from sentry_sdk.transport import Transport

class Shown(Transport):
    def capture_envelope(self, envelope):
        print(envelope.get_transaction_event()["transaction"])

sentry_sdk.init("http://key@localhost/1", transport=Shown, traces_sample_rate=1.0)
notifier = instrument(Notifier(sys.argv[1]))
"""


def test_sentry(install, db):
    """With the extra sentry, a notification has a transaction."""
    environment = install("sentry")
    program = PROGRAM.replace("SET_UP", SENTRY).replace("SHOW", "pass").replace("SEEN", "pass")
    done = environment.run("python", "-W", "error", "-c", program, db.dsn)
    assert done.stdout == "process orders\n"


def test_cli(install, db, free_port):
    """`pgnotifier listen` calls a callback in its process; `pgnotifier health` shows its state."""
    environment = install("cli")
    write_callback(environment, db.dsn)
    port = str(free_port)
    listener = environment.start(
        "pgnotifier", "listen", "plain:notifier", "--health-port", port, ready="listening"
    )
    db.notify("orders", '{"total": 9.5}')
    listener.wait_for("orders: {'total': 9.5} from session")
    assert environment.run("pgnotifier", "health", "--port", port).stdout == "listening\n"
    assert "Traceback" not in listener.log


def test_console(install, db):
    """`pgnotifier console` shows the listener to a browser."""
    environment = install("console")
    write_callback(environment, db.dsn)
    environment.start("pgnotifier", "listen", "plain:notifier", ready="listening")
    console = environment.start(
        "pgnotifier", "console", "--port", "0", "--dsn", db.dsn, ready="the console is at http"
    )
    address = re.search(r"http://\S+/", console.log)[0]
    with urllib.request.urlopen(f"{address}events", timeout=60) as events:
        assert any(b'"state": "listening"' in line for line in events)


def test_top(install, db, eventually):
    """`pgnotifier top` draws the listener in a terminal, and ends by a key."""
    environment = install("top")
    write_callback(environment, db.dsn)
    environment.start("pgnotifier", "listen", "plain:notifier", ready="listening")
    terminal = Terminal(environment.find("pgnotifier"), "top", "--dsn", db.dsn)
    try:
        eventually(lambda: "1 listener " in terminal.text)
        terminal.type("2")
        eventually(lambda: re.search(r"^ *orders ", terminal.text, re.MULTILINE))
        terminal.type("q")
        assert terminal.process.wait(60) == 0, terminal.text
    finally:
        terminal.close()


@pytest.mark.timeout(300)
def test_demo(install):
    """`pgnotifier demo` accounts for all of its notifications."""
    environment = install("demo")
    environment.run("pgnotifier", "demo", "--orders", "40")
