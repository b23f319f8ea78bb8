"""`pgnotifier doctor` names what is wrong with an app's broker, workers, tasks and queues."""

import json
import re
import socket
import sys
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

PROGRAM = str(Path(sys.executable).parent / "pgnotifier")
SECRET = "sesame-4711"
SHOP = """
from pgnotifier.contrib.celery import CeleryNotifier

app.conf.pgnotifier_dsn = os.environ["DSN"]
notifier = CeleryNotifier(app)
if os.environ.get("AWAY"):
    app.conf.broker_url = os.environ["AWAY"]

@app.task(name="shop.invoice")
def invoice(*args): ...

notifier.subscribe("invoice", "orders", invoice)
if os.environ.get("ADDED"):
    notifier.subscribe("resize", "orders", print)
if os.environ.get("ELSEWHERE"):
    notifier.subscribe("mails", "orders", invoice, queue="mails")
if os.environ.get("CHAIN"):
    notifier.subscribe("chain", "orders", chain(invoice.s(), app.signature("other.program")))
"""


@pytest.fixture(scope="module")
def shop(open_module_shop):
    """Return a shop with a worker and a listener, which subscribe to one task."""
    shop = open_module_shop(SHOP)
    worker = shop.worker()
    shop.listener()
    shop.worker_name = re.findall(r"\w+@shop", worker.log)[0]
    return shop


@pytest.fixture
def examine(shop):
    """Return a function that runs the command; it returns the exit code and the problems."""

    def examine(*arguments, **env):
        done = shop.run(PROGRAM, "doctor", "-A", "shop", "--json", *arguments, **env)
        code = done.wait()
        assert SECRET not in done.log
        findings = json.loads(done.log)["findings"]
        found = [one for one in findings if one["level"] != "ok"]
        assert all(one["advice"] for one in found)
        return code, {one["check"]: f"{one['seen']} {one['advice']}" for one in found}

    return examine


def test_a_healthy_app(shop, examine):
    """Nothing is found in a healthy app, and nothing is left in its Redis."""
    before = {*shop.redis.keys()}
    assert examine() == (0, {})
    assert {*shop.redis.keys()} - before == set()


def test_a_worker_without_the_module(examine):
    """A worker that doesn't know a subscription's task is named; a canvas has further tasks."""
    code, problems = examine(ADDED="1")
    assert code == 1
    assert problems.keys() == {"tasks"}
    assert "doesn't know the task 'pgnotifier.resize' of subscription 'resize'" in problems["tasks"]
    assert "import the module that subscribes" in problems["tasks"]
    code, problems = examine(CHAIN="1")
    assert code == 1
    assert "doesn't know the task 'other.program'" in problems["tasks"]


def test_a_queue_that_nobody_reads(examine):
    """A queue that no worker reads is named."""
    code, problems = examine(ELSEWHERE="1")
    assert code == 1
    assert problems.keys() == {"queues"}
    assert "No worker reads the queue 'mails', to which subscription 'mails'" in problems["queues"]
    assert "-Q mails" in problems["queues"]


def test_no_worker(shop, examine):
    """If no worker answers, that is named."""
    code, problems = examine("--timeout", "1.5", BROKER=shop.env["BROKER"].replace("/0", "/9"))
    assert code == 1
    assert problems.keys() == {"workers"}
    assert "No worker has answered" in problems["workers"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"redis://:{SECRET}@127.0.0.1:1/0", "refused"),
        (f"redis://:{SECRET}/x@127.0.0.1:1/0", "can't be parsed"),
    ],
)
def test_a_broker_that_is_down(examine, url, says):
    """A broker that can't be reached is named, without its password."""
    code, problems = examine("--timeout", "3", AWAY=url)
    assert code == 1
    assert problems.keys() == {"broker"}
    assert says in problems["broker"]


def test_a_broker_that_hangs(examine):
    """A broker that accepts connections and doesn't answer is named after the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"amqp://shop:{SECRET}@127.0.0.1:{server.getsockname()[1]}//"
        code, problems = examine("--timeout", "1", AWAY=url)
    assert code == 1
    assert problems.keys() == {"broker"}
    assert "no answer within 1 s" in problems["broker"]


DOCS = Path(__file__).parents[3] / "docs" / "commands.md"


def test_the_sample_in_the_docs(shop):
    """The sample in docs/commands.md is what the command prints, apart from names and numbers."""
    done = shop.run(PROGRAM, "doctor", "-A", "shop", ADDED="1")
    assert done.wait() == 1
    given = conninfo_to_dict(shop.dsn)
    printed = done.log
    for real, shown in (
        (given["host"], "/run/postgresql"),
        (given["dbname"], "shop"),
        (f"'{given['user']}'", "'shop'"),
        (shop.env["BROKER"], "redis://localhost:6379/0"),
        (shop.queue, "celery"),
        (shop.worker_name, "celery@worker-1"),
    ):
        printed = printed.replace(real, shown)
    sample = re.findall(r"```\n\$ pgnotifier doctor -A shop\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert [without_numbers(one) for one in sample] == [without_numbers(printed)], printed


def without_numbers(text):
    """Return a text with N in place of each number."""
    return re.sub(r"\d+(?:\.\d+)?", "N", text)
