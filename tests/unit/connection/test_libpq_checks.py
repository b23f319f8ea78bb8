"""What libpq refuses is recognized in every language."""

import os
import subprocess
import sys
from ctypes.util import find_library

import pytest

from pgnotifier._connection.libpq_checks import find_unknown, refuses_values

NAMES = ("host", "password", "sslmode")


@pytest.mark.parametrize(
    "values",
    [
        {"sslmode": "maybe"},
        {"host": "a,b", "port": "1,2", "target_session_attrs": "fastest"},
        {"port": "99999"},
        {"host": "", "hostaddr": "127.0.0.1", "gssencmode": "x"},
        {"host": "127.0.0.1", "keepalives_idle": "x"},
        {"service": "no-such-service"},
    ],
)
def test_refused_values(values):
    """A value that no server could accept is recognized, whatever the host is."""
    assert refuses_values(values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"host": "127.0.0.1", "port": "1"},
        {"host": "a,b", "port": "1,2", "sslmode": "require"},
        {"host": "a", "hostaddr": "127.0.0.1", "client_encoding": "UTF8", "password": "p w"},
        {"host": "/nonexistent", "passfile": "/nonexistent"},
    ],
)
@pytest.mark.parametrize("environment", [{}, {"PGHOST": "a,b", "PGPORT": "1,2"}])
def test_a_server_that_is_missing(monkeypatch, values, environment):
    """A server that can't be reached isn't taken for a refused value, and isn't asked."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert not refuses_values(values)


@pytest.mark.parametrize(
    ("message", "given", "name"),
    [
        ('invalid connection option "sslmod"', "host=h sslmod=require", "sslmod"),
        ("ungültige Verbindungsoption »sslmod«", "host=h sslmod = require", "sslmod"),
        ("ungültiger URI-Query-Parameter: »sslmod«", "postgresql://h/d?sslmod=x", "sslmod"),
        ('接続オプション"sslmod"は不正です', "host=h sslmod=require", "sslmod"),
        ('missing "=" after "word" in connection info string', "host=h password=pass word", None),
        ("fehlendes »=« nach »word« in der Zeichenkette", "host=h password=pass word", None),
    ],
)
def test_unknown_names(message, given, name):
    """A name that libpq doesn't know is found in its message, in any language."""
    assert find_unknown(message, given, NAMES) == name


SCRIPT = """
import locale, sys
locale.setlocale(locale.LC_ALL, "")
from pgnotifier import ConfigurationError, ConnectionFailedError
from pgnotifier._connection.parameters import Parameters

for db_conf, error, text in [
    ("host=/nonexistent sslmod=require", ConfigurationError, "did you mean 'sslmode'"),
    ("postgresql:///?sslmod=require", ConfigurationError, "did you mean 'sslmode'"),
    ("host=/nonexistent sslmode=maybe", ConfigurationError, "maybe"),
    ("host=127.0.0.1 port=99999", ConfigurationError, "99999"),
    ("host=127.0.0.1 port=1 keepalives_idle=x", ConfigurationError, "keepalives_idle"),
    ("host=127.0.0.1 port=1", ConnectionFailedError, "127.0.0.1"),
]:
    try:
        Parameters(db_conf).connect()
    except error as exc:
        assert text in str(exc), exc
    else:
        raise AssertionError(db_conf)
"""


@pytest.mark.slow
def test_with_translations():
    """The errors are the same in German, if the system has a libpq, which has translations."""
    german = {"LANGUAGE": "de", "LC_ALL": "C.UTF-8"}
    if find_library("pq"):
        german["PSYCOPG_IMPL"] = "python"  # the wheel's libpq has none
    subprocess.run([sys.executable, "-c", SCRIPT], env={**os.environ, **german}, check=True)
