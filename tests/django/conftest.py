"""What the tests of the Django project share."""

import pytest
import waiting
from django.db import connections
from preforked import Preforked

from pgnotifier.contrib.django.notifiers import get_notifier, replace_dispatchers
from shop import notifications

pytest_plugins = ["pgnotifier.contrib.django.pytest_plugin"]


@pytest.fixture(scope="session")
def django_db_modify_db_settings():
    """Leave the databases' names as they are: the servers are this run's own."""


@pytest.fixture(autouse=True)
def calls():
    """Return what the project's receivers have taken down."""
    notifications.calls.clear()
    return notifications.calls


@pytest.fixture
def eventually():
    """Return the function that waits until a condition is true."""
    return waiting.eventually


@pytest.fixture(scope="session")
def preforked():
    """Yield what starts commands of Django in less time."""
    with Preforked() as preforked:
        yield preforked


@pytest.fixture
def through():
    """Return a function that has the project's tasks go through another dispatcher."""

    def through(kind):
        replace_dispatchers(kind)
        notifications.found.subscribe_tasks()
        return get_notifier("default")

    yield through
    through("inline")


@pytest.fixture
def functions():
    """Return a function that lists our trigger functions in a database."""

    def functions(alias="default"):
        with connections[alias].cursor() as cursor:
            cursor.execute(
                r"SELECT proname FROM pg_proc WHERE proname LIKE 'pgnotifier\_%' ORDER BY 1"
            )
            return [name for (name,) in cursor.fetchall()]

    return functions


@pytest.fixture
def stranger(db):
    """Yield a role that may create things in `public`, as any could up to PostgreSQL 14."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "CREATE ROLE stranger LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO stranger"
        )
        yield "stranger"
        cursor.execute("RESET ROLE; DROP OWNED BY stranger CASCADE; DROP ROLE stranger")
