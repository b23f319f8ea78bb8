"""Django projects, in processes of their own, because Django can be configured only once."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from shops import Running

PROJECT = Path(__file__).parents[1] / "django"
PARTS = 4
"""In how many processes the project's test files run, side by side."""
EXAMPLE = Path(__file__).parents[2] / "examples" / "django_app"


@pytest.fixture
def env(pgnotifier_postgres, pgnotifier_dsn, pgnotifier_redis_url):
    """Yield the environment variables of the project: two databases, and Redis."""
    with pgnotifier_postgres.database() as second:
        yield {
            **{name: value for name, value in os.environ.items() if "PYTEST" not in name},
            "TEST_DJANGO_DSN": pgnotifier_dsn,
            "TEST_DJANGO_SECOND_DSN": second,
            "TEST_DJANGO_REDIS_URL": pgnotifier_redis_url,
        }


def run(*argv, env, cwd=PROJECT):
    """Run Python, and return its output."""
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=560,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_the_project(env, tmp_path, part):
    """All tests of the project pass, and none is skipped."""
    kept = f"--basetemp={tmp_path / 'project'}"  # which goes with this test's own files
    files = sorted(file.name for file in PROJECT.glob("test_*.py"))[part::PARTS]
    output = run("-m", "pytest", "-q", "-p", "no:cacheprovider", kept, *files, env=env)
    *_, summary = output.splitlines()
    assert "passed" in summary
    for word in ("failed", "error", "skipped", "warning"):
        assert word not in summary, output


PGTRIGGER = """
import django
django.setup()
from django.core.management import call_command
from pgnotifier.contrib.django import notify_on
from shop.models import Order
notify_on(Order, channel="orders", insert=False, update=False, new=["note"])
notify_on(Order, channel="it's $$ 100%s", delete=False, update=False, new=["note"], name="a.$")
call_command("makemigrations", "shop", verbosity=0)
call_command("migrate", verbosity=0)
call_command("makemigrations", "--check", verbosity=0)
from django.db import transaction
from pgnotifier.contrib.django.test import captureNotifications
with transaction.atomic(), captureNotifications() as sent:
    order = Order.objects.create(item="tea")
    Order.objects.update(item="coffee")
    Order.objects.update(status="paid")
    order.delete()
for one in sent:
    print(one.channel, one.payload["operation"], one.payload.get("changed"))
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = 'shop_order'::regclass "
                   "AND NOT tgisinternal")
    print(cursor.fetchall())
"""


def test_with_django_pgtrigger(env, tmp_path):
    """If django-pgtrigger is installed, `notify_on` makes its triggers, through migrations."""
    (tmp_path / "of_shop").mkdir()
    (tmp_path / "of_shop" / "__init__.py").touch()
    (tmp_path / "with_pgtrigger.py").write_text(
        "from settings import *\nMIGRATION_MODULES = {'shop': 'of_shop'}\n"
    )
    output = run(
        "-W",
        "error",
        "-c",
        PGTRIGGER,
        env={
            **env,
            "WITH_PGTRIGGER": "1",
            "DJANGO_SETTINGS_MODULE": "with_pgtrigger",
            "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}",
        },
    )
    *operations, triggers = output.splitlines()
    assert sorted(operations) == [
        "it's $$ 100%s insert None",
        "orders delete None",
        "orders delete None",
        "orders insert None",
        "orders update ['order status']",
    ]
    assert "pgtrigger_pgnotifier_" in triggers


MANAGE = """
import os, shlex, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bookshop.settings")
for line in sys.argv[1:]:
    execute_from_command_line(["manage.py", *shlex.split(line)])
"""
MIGRATE = ("migrate --verbosity 0 --database default", "migrate --verbosity 0 --database audit")


def manage(env, *lines):
    """Run management commands of the example one after the other in one process."""
    run("-c", MANAGE, *lines, env=env, cwd=EXAMPLE)


@pytest.fixture
def bookshop(env):
    """Return the environment variables of the example."""
    return env | {
        "BOOKSHOP_DSN": env["TEST_DJANGO_DSN"],
        "BOOKSHOP_AUDIT_DSN": env["TEST_DJANGO_SECOND_DSN"],
        "BOOKSHOP_BROKER": env["TEST_DJANGO_REDIS_URL"],
        "DJANGO_SUPERUSER_PASSWORD": "sesame",
        "PYTHONUNBUFFERED": "1",
    }


def test_the_example_is_as_it_should_be(bookshop):
    """Once the databases are migrated, all checks pass, and no migration is missing."""
    manage(
        bookshop,
        *MIGRATE,
        "check --database default --database audit --fail-level WARNING",
        "makemigrations --check",
    )


@pytest.fixture
def start(bookshop, tmp_path, preforked):
    """Yield a function that starts a command in a copy of the example."""
    directory = tmp_path / "bookshop"
    shutil.copytree(EXAMPLE, directory, ignore=shutil.ignore_patterns("__pycache__"))
    with ExitStack() as stack:

        def start(kind, *argv):
            running = Running(partial(preforked.fork, kind), argv, directory, bookshop)
            stack.callback(running.end)
            return running

        yield start


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of playwright's pipes
def test_the_example_in_a_browser(bookshop, start, free_port):
    """An order is placed, invoiced and audited; the admin shows the listeners."""
    from browser import open_browser
    from playwright.sync_api import expect

    manage(bookshop, *MIGRATE, "createsuperuser --noinput --username ada --email ada@example.org")
    worker = start("celery", "-m", "celery", "-A", "bookshop", "worker", "-l", "INFO", "-P", "solo")
    listener = start("django", "manage.py", "pgnotifier", "--noreload")
    server = start("django", "manage.py", "runserver", "--noreload", str(free_port))
    worker.wait_for("ready.")
    listener.wait_for("listening")
    server.wait_for("Quit the server")
    url = f"http://127.0.0.1:{free_port}"
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(url)
        page.get_by_label("Item").fill("a <b>novel</b>")
        page.get_by_role("button", name="Order").click()
        history = ["order 1: insert, new", "order 1: update, invoiced"]

        def reload_until(locator, texts):
            for _ in range(100):
                if locator.all_inner_texts() == texts:
                    return
                page.wait_for_timeout(200)
                page.reload()
            expect(locator).to_have_text(texts)

        orders = page.get_by_role("list", name="Orders").get_by_role("listitem")
        reload_until(orders, ["1: a <b>novel</b> (invoiced)"])
        reload_until(page.get_by_role("list", name="History").get_by_role("listitem"), history)

        page.goto(f"{url}/admin/pgnotifier/listener/")
        page.get_by_label("Username").fill("ada")
        page.get_by_label("Password").fill("sesame")
        page.get_by_role("button", name="Log in").click()
        rows = page.locator("#result_list tbody tr")
        expect(rows).to_have_count(2)  # one for each database
        page.get_by_role("link", name=":default").click()
        for text in ("listening", "audit.notifications.write_down", "invoice"):
            expect(page.get_by_text(text, exact=False).first).to_be_visible()
        assert "Traceback" not in listener.log
