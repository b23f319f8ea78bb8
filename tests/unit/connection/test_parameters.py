"""Connection parameters: which are accepted, and that no error shows a password."""

import os
import traceback
from types import SimpleNamespace

import psycopg
import pytest
from psycopg import conninfo

from pgnotifier import ArgumentTypeError, ConfigurationError, ConnectionFailedError
from pgnotifier._connection.parameters import Parameters
from pgnotifier.errors import in_one_line

SECRET = "hunter2-s3cret"


def known(parameters):
    return conninfo.conninfo_to_dict(parameters.conninfo)


@pytest.mark.parametrize(
    "db_conf",
    [
        {"host": "h", "port": 6432, "dbname": "shop", "user": "u", "password": "p w"},
        {"host": "h", "port": "6432", "dbname": "shop", "user": "u", "password": "p w"},
        "host=h port=6432 dbname=shop user=u password='p w'",
        "postgresql://u:p%20w@h:6432/shop",
        "postgres://u:p%20w@h:6432/shop?connect_timeout=10",
    ],
)
def test_forms(db_conf):
    """A dict, a conninfo string and a URI are equivalent, and a port may be an int or a str."""
    found = known(Parameters(db_conf))
    wanted = {"host": "h", "port": "6432", "dbname": "shop", "user": "u", "password": "p w"}
    assert found.items() >= wanted.items()


def test_defaults(monkeypatch):
    """Defaults are set for a name, UTF-8 and a timeout; the user's name and timeout are kept."""
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    found = known(Parameters({"host": "h", "password": None}))
    assert found["fallback_application_name"] == "pgnotifier"
    assert found["client_encoding"] == "UTF8"
    assert found["connect_timeout"] == "10"
    assert "password" not in found
    mine = {"connect_timeout": 3, "application_name": "mine", "client_encoding": "LATIN1"}
    found = known(Parameters(mine))
    assert found["connect_timeout"] == "3"
    assert found["application_name"] == "mine"
    assert found["client_encoding"] == "UTF8"
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "4")
    assert "connect_timeout" not in known(Parameters(""))


def test_values_are_quoted():
    """A value is passed unchanged, and can't add another parameter."""
    odd = "it's a \\ 'trap' host=evil"
    found = known(Parameters({"host": "h", "password": odd, "dbname": odd}))
    assert found["password"] == found["dbname"] == odd
    assert found["host"] == "h"


@pytest.mark.parametrize("db_conf", [5432, b"host=h", ["host=h"], object()])
def test_other_types(db_conf):
    """Anything but a dict or a str is refused when the notifier is made."""
    with pytest.raises(ArgumentTypeError, match="db_conf"):
        Parameters(db_conf)


@pytest.mark.parametrize(
    ("db_conf", "name", "hint"),
    [
        ({"database": "x"}, "database", "dbname"),
        ({"db": "x"}, "db", "dbname"),
        ({"username": "x"}, "username", "user"),
        ({"hots": "x"}, "hots", "host"),
        ({"pasword": SECRET}, "pasword", "password"),
        ("database=x", "database", "dbname"),
        (f"host=h pasword={SECRET}", "pasword", "password"),
        (f"password={SECRET} hots=h", "hots", "host"),
        ("postgresql://h/x?sslmod=require", "sslmod", "sslmode"),
    ],
)
def test_unknown_names(db_conf, name, hint):
    """An error names the unknown parameter, and suggests a similar one."""
    with pytest.raises(ConfigurationError) as caught:
        Parameters(db_conf)
    assert f"{name!r} is not a connection parameter" in str(caught.value)
    assert f"did you mean {hint!r}" in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_unknown_without_a_hint():
    """A name without a similar one gets no suggestion, even if it isn't a str."""
    for db_conf, name in (({"qqqqqq": 1}, "qqqqqq"), ({7: 1}, "7")):
        with pytest.raises(ConfigurationError, match=repr(name)) as caught:
            Parameters(db_conf)
        assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "db_conf",
    [
        "host=h password=one two-piece",
        "host=h password=one piece=1",
        "postgresql://h/db?password=one&piece=1",
        "postgresql://h/db?password=one&%70iece=1",
        "password='unended",
        "postgresql://u:100%piece@h/db",
        "postgresql://u:pie@ce@h/db",
        "postgresql://u:piece/more@h/db",
        "postgresql://u:5432/piece@h/db",
        "postgresql://u:pi?ece@[h/db",
        "piece",
    ],
)
def test_malformed_strings_keep_their_pieces(db_conf):
    """A malformed string is refused, and the error doesn't quote any part of it."""
    with pytest.raises(ConfigurationError) as caught:
        Parameters(db_conf)
    text = "".join(traceback.format_exception(caught.value))
    for piece in ("piece", "unended", "ce@h", "more"):
        assert piece not in text.replace("db_conf", "").split("ConfigurationError", 1)[1]
    assert "percent-encoded" in text


@pytest.mark.parametrize(
    "db_conf",
    [
        "postgresql://u:p%40ss@h/db",
        "postgresql://u@h/db?password=a@b",
        "password=a@b host=@abstract",
        "host=/tmp/a@b,@abstract",
    ],
)
def test_at_signs_in_their_place(db_conf):
    """An at sign is accepted if it is encoded or in an allowed place."""
    assert Parameters(db_conf)


@pytest.mark.parametrize(
    ("db_conf", "what"),
    [
        ({"port": "abc"}, "port"),
        ("host=h port=5432x", "port"),
        ({"host": "\ud800"}, "host"),
        ({"password": f"{SECRET}\ud800"}, "password"),
        ({"password": f"{SECRET}\0"}, "password"),
        ({"dbname": f"postgresql://u:{SECRET}@h/db"}, "dbname"),
        ({"dbname": f"host=h password={SECRET}"}, "dbname"),
        (f"host=h dbname='password={SECRET}'", "dbname"),
        (f"postgresql://u:{SECRET}:5432/db", "port"),
        ({"host": f"u:{SECRET}@h"}, "host"),
        ({"host": f"a,u:{SECRET}@h"}, "host"),
    ],
)
def test_values_that_cannot_be(db_conf, what):
    """An invalid value is refused when the notifier is made, without showing a secret."""
    with pytest.raises(ConfigurationError, match=what) as caught:
        Parameters(db_conf)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("port", [5432, "5432", "5432,5433", ",", " 5432 ", None])
def test_ports(port):
    """A port is a number, a list for several hosts, or left out."""
    assert Parameters({"host": "a,b", "port": port})


def test_repr_has_no_password():
    """The repr shows where it connects to, without the password."""
    parameters = Parameters(f"postgresql://u:{SECRET}@h:1/db?sslpassword={SECRET}")
    assert repr(parameters) == "host=h port=1 dbname=db user=u"
    assert SECRET not in str(parameters)


def test_repr_of_what_the_environment_says(monkeypatch):
    """Without parameters of its own, it shows those that libpq takes from its variables."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    assert repr(Parameters("")) == "libpq's defaults"
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv("PGDATABASE", f"postgresql://u:{SECRET}@h/db")
    monkeypatch.setenv("PGSERVICE", "shop")
    assert repr(Parameters({})) == "dbname=postgresql://u:***@h/db service=shop"
    assert repr(Parameters({"host": "h"})) == "host=h"


def test_libpq_quoting_the_password(monkeypatch):
    """If libpq's message has the password, the error and its traceback don't."""

    def connect(conninfo, **_):
        raise psycopg.OperationalError(f"no such thing: {conninfo}")

    monkeypatch.setattr(psycopg.Connection, "connect", connect)
    with pytest.raises(ConnectionFailedError, match="no such thing") as caught:
        Parameters({"host": "h", "password": SECRET}).connect()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["password", "sslpassword"])
@pytest.mark.parametrize("kind", [psycopg.OperationalError, psycopg.ProgrammingError])
def test_libpq_quoting_other_secrets(monkeypatch, name, kind):
    """A key's password is hidden too, also percent-encoded, or if libpq refuses it."""

    def connect(*_, **__):
        raise kind("no key: 's/esame' or 's%2Fecret'\nor otherwise")

    monkeypatch.setattr(psycopg.Connection, "connect", connect)
    with pytest.raises((ConfigurationError, ConnectionFailedError)) as caught:
        Parameters({"host": "h", name: "s/esame"}).connect()
    assert "esame" not in "".join(traceback.format_exception(caught.value)).split("Error: ", 1)[1]
    assert "***" in str(caught.value)


def test_a_password_that_is_the_user_name(monkeypatch):
    """If the password equals a name, the error still shows that name."""

    def connect(conninfo, **_):
        raise psycopg.OperationalError('database "postgres" does not exist')

    monkeypatch.setattr(psycopg.Connection, "connect", connect)
    conf = {"user": "postgres", "dbname": "postgres", "password": "postgres"}
    with pytest.raises(ConnectionFailedError, match='database "postgres" does not exist'):
        Parameters(conf).connect()


def test_one_line(free_port):
    """A message of libpq with several lines is put into one."""
    text = " server closed\n\tThis probably means\n"
    assert in_one_line(text) == "server closed; This probably means"
    with pytest.raises(ConnectionFailedError) as caught:
        Parameters({"host": "127.0.0.1,localhost", "port": free_port}).connect()
    assert "Connection refused" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", ["UndefinedFunction", "SyntaxError", "FeatureNotSupported"])
def test_a_server_that_refuses_what_a_session_needs(monkeypatch, error):
    """If a session can't be set up, ConnectionFailedError is raised and nothing is left open."""
    opened = []

    class Opened:
        info = SimpleNamespace(server_version=180000, backend_pid=1)
        closed = False

        def close(self):
            self.closed = True

    def connect(*_, **__):
        opened.append(Opened())
        return opened[-1]

    def set_up(_):
        raise getattr(psycopg.errors, error)("it isn't PostgreSQL")

    monkeypatch.setattr("psycopg.Connection.connect", connect)
    monkeypatch.setattr("pgnotifier._connection.parameters.set_up", set_up)
    with pytest.raises(ConnectionFailedError, match="it isn't PostgreSQL"):
        Parameters("host=h").connect()
    assert [one.closed for one in opened] == [True, True]
