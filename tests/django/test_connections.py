"""The listener's connection, configured by DATABASES, and the connections of receivers."""

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections, transaction

from pgnotifier.contrib.django.notifiers import find_parameters, get_notifier
from pgnotifier.contrib.django.stale import close_stale_connections
from shop.models import Customer, orders


@pytest.fixture
def database(monkeypatch):
    """Return a function that changes the default database's settings and returns its parameters."""

    def database(**settings):
        for name, value in settings.items():
            monkeypatch.setitem(connections["default"].settings_dict, name, value)
        return find_parameters("default")

    return database


def test_as_django_has_it(database):
    """The parameters are those of DATABASES, including options for libpq."""
    assert database(
        NAME="shop",
        USER="ada",
        PASSWORD="sesame",
        HOST="db.example.org",
        PORT="5433",
        OPTIONS={"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem", "connect_timeout": 3},
    ) == {
        "dbname": "shop",
        "user": "ada",
        "password": "sesame",
        "host": "db.example.org",
        "port": "5433",
        "sslmode": "verify-full",
        "sslrootcert": "/etc/ca.pem",
        "connect_timeout": 3,
        "client_encoding": "UTF8",
    }


def test_service_files(database):
    """A service and a passfile are passed to libpq, and empty parameters are left out."""
    found = database(
        NAME="", OPTIONS={"service": "shop", "passfile": ".pgpass"}, USER="", HOST="", PORT=""
    )
    assert found == {"service": "shop", "passfile": ".pgpass", "client_encoding": "UTF8"}


def test_what_is_not_for_listening(database):
    """Options that aren't libpq's, such as a pool, aren't passed to the listener."""
    options = {"pool": {"min_size": 2}, "server_side_binding": True, "assume_role": "shop"}
    assert database(NAME="shop", OPTIONS=options).keys() <= {
        "dbname", "user", "host", "port", "client_encoding"
    }  # fmt: skip


def test_what_can_not_be_listened_to():
    """An unknown alias and a database other than PostgreSQL are errors that name the alias."""
    with pytest.raises(ImproperlyConfigured, match="DATABASES has no alias 'nowhere'"):
        find_parameters("nowhere")
    with pytest.raises(ImproperlyConfigured, match="'lite' is SQLite, which doesn't have NOTIFY"):
        find_parameters("lite")


def test_stale_connections(transactional_db, monkeypatch):
    """Connections older than CONN_MAX_AGE are closed, but not within a transaction."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)
    connection.close()
    Customer.objects.count()
    with transaction.atomic():
        close_stale_connections()
        assert connection.connection is not None
        Customer.objects.count()
    close_stale_connections()
    assert connection.connection is None


def test_a_session_that_a_receiver_lost(transactional_db, eventually):
    """With CONN_HEALTH_CHECKS a lost session is replaced; none is open at the end."""
    database = connections["default"].settings_dict
    before = {name: database[name] for name in ("CONN_MAX_AGE", "CONN_HEALTH_CHECKS")}
    database.update(CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    pids = []

    def query(payload, **_):
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone()[0])

    orders.connect(query)
    notifier = get_notifier("default")
    notifier.start()
    try:
        for number in range(2):
            orders.notify(number)
        eventually(lambda: len(pids) == 2)
        assert pids[0] == pids[1]
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pids[0]])
        orders.notify(2)
        eventually(lambda: len(pids) == 3)
        assert pids[2] != pids[1]
    finally:
        notifier.stop()
        orders.disconnect(query)
        database.update(before)

    def left():
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)", [pids])
            return cursor.fetchone()[0]

    eventually(lambda: left() == 0)
