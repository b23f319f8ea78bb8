"""Databases in other encodings: what comes as it may, and names that they can't hold."""

import secrets

import psycopg
import pytest
from psycopg import sql

from pgnotifier import ListenRefusedError


@pytest.fixture
def database_in(pgnotifier_postgres):
    """Return a maker of databases in an encoding, dropped afterwards."""
    made = []
    server = pgnotifier_postgres

    def create(encoding):
        name = f"encoded_{encoding.lower()}_{secrets.token_hex(4)}"
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            admin.execute(
                sql.SQL(
                    "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'"
                    " LOCALE_PROVIDER libc"
                ).format(sql.Identifier(name), encoding)
            )
        made.append(name)
        return server.dsn_for(name)

    yield create
    for name in made:
        server.drop_database(name)


@pytest.fixture
def encoded(database_in, request):
    """Return the conninfo string of a database in the encoding that the test names."""
    return database_in(request.param)


@pytest.mark.parametrize("encoded", ["SQL_ASCII"], indirect=True)
def test_bytes_that_are_not_unicode(encoded, make_notifier, record):
    """In a SQL_ASCII database any bytes may come; they arrive as surrogates, and stop nothing."""
    errors = []
    notifier = make_notifier(encoded, on_error=lambda *args: errors.append(args))
    notifier.subscribe(1, "ü", record)
    with psycopg.connect(encoded, autocommit=True, client_encoding="SQL_ASCII") as odd:
        odd.execute(b"NOTIFY \"\xc3\xbc\", '\xff\xfe'")
        odd.execute(b"NOTIFY \"\xff\", 'nobody hears this one'")
        odd.execute(b"NOTIFY \"\xc3\xbc\", '\xc3\xbc'")
    assert record.wait_for(2) == ["\udcff\udcfe", "ü"]
    assert errors == []


@pytest.mark.parametrize("encoded", ["LATIN1"], indirect=True)
def test_a_refused_channel(encoded, make_notifier, make_recorder):
    """A name that the server refuses raises, isn't added, and costs no other channel anything."""
    record = make_recorder()
    notifier = make_notifier(encoded)
    with pytest.raises(ListenRefusedError, match="LATIN1"):
        notifier.add_channels(["first", "日本"])
    assert notifier.get_channels() == set()
    assert not notifier.is_running()
    notifier.subscribe(1, "ü", record)
    for number in range(20):
        notifier.notify("ü", number)
        with pytest.raises(ListenRefusedError, match="LATIN1"):
            notifier.add_channels(["good", "日本"])
        with pytest.raises(ListenRefusedError):
            notifier.subscribe(2, "日本", record)
        assert record.wait_for(number + 1, timeout=5)[-1] == number
    assert notifier.get_channels() == {"ü"}
    assert notifier.get_subscriptions() == {"ü": {1: record}}
    assert notifier.status().reconnects == 0
