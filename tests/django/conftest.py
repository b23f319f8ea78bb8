"""Fixtures that the tests of the Django project share."""

import logging

import pytest
import waiting
from django.db import connections
from preforked import Preforked

from pgnotifier.contrib.django.notifiers import get_notifier, replace_dispatchers
from shop import notifications

pytest_plugins = ["pgnotifier.contrib.django.pytest_plugin"]


@pytest.fixture(scope="session")
def django_db_modify_db_settings():
    """Keep the databases' names, because the servers belong to this test run alone."""


@pytest.fixture(autouse=True)
def root_level():
    """Give the root logger its level back, which a worker of Celery in this process changes."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def calls():
    """Return the list in which the project's receivers record their calls."""
    notifications.calls.clear()
    return notifications.calls


@pytest.fixture
def eventually():
    """Return the function that waits until a condition is true."""
    return waiting.eventually


@pytest.fixture(scope="session")
def preforked(tmp_path_factory):
    """Yield a helper that starts Django commands from a preforked process, to save time."""
    with Preforked(tmp_path_factory.getbasetemp()) as preforked:
        yield preforked


@pytest.fixture
def through():
    """Return a function that replaces the dispatcher of the project's tasks."""

    def through(kind):
        replace_dispatchers(kind)
        notifications.found.subscribe_tasks()
        return get_notifier("default")

    yield through
    through("inline")


@pytest.fixture
def functions():
    """Return a function that lists the package's trigger functions in a database."""

    def functions(alias="default"):
        with connections[alias].cursor() as cursor:
            cursor.execute(
                r"SELECT proname FROM pg_proc WHERE proname LIKE 'pgnotifier\_%' ORDER BY 1"
            )
            return [name for (name,) in cursor.fetchall()]

    return functions


@pytest.fixture
def stranger(db):
    """Yield a role that may create objects in `public`, as any role could up to PostgreSQL 14."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "CREATE ROLE stranger LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO stranger"
        )
        yield "stranger"
        cursor.execute("RESET ROLE; DROP OWNED BY stranger CASCADE; DROP ROLE stranger")
