"""`pgnotifier doctor` names what is wrong with a database, and finds nothing in a healthy one."""

import itertools
import json
import socket
import time
from contextlib import contextmanager

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier.cli.command import pgnotifier
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.examining import examine
from pgnotifier.cli.target import find_target
from pgnotifier.durable import grant

from .pgbouncer import pgbouncer
from .replica import replica_of

numbers = itertools.count()
SECRET = "sesame-4711"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("PGNOTIFIER_DSN", "DJANGO_SETTINGS_MODULE", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments):
    """Run the command; return its exit code and the findings."""
    done = CliRunner().invoke(pgnotifier, ["doctor", *arguments, "--json"], catch_exceptions=False)
    assert SECRET not in done.output
    said = json.loads(done.stdout)
    assert said["ok"] is (done.exit_code == 0)
    return done.exit_code, said["findings"]


def problems(findings, *levels):
    """Return what was found of these levels, by check; each has to say what to do."""
    found = [one for one in findings if one["level"] in (levels or ("failed", "warning"))]
    assert all(one["advice"] for one in found)
    return {one["check"]: f"{one['seen']} {one['advice']}" for one in found}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes a module with a notifier, and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])

    def write(dsn, *subscriptions):
        name = f"clinic_{next(numbers)}"
        lines = [f"notifier.subscribe({one})" for one in subscriptions]
        source = ["from pgnotifier import Notifier", f"notifier = Notifier({dsn!r})", *lines]
        (tmp_path / f"{name}.py").write_text("\n".join(source))
        return name

    return write


@pytest.fixture
def listens(pgnotifier_dsn, make_notifier):
    """Have a notifier listen in the test's database."""
    make_notifier(pgnotifier_dsn).add_channel("orders")


@pytest.mark.usefixtures("listens")
def test_a_healthy_one(pgnotifier_dsn, write):
    """Nothing is found in a healthy database, and every check says what it has seen."""
    name = write(pgnotifier_dsn, "'pay', 'orders', print")
    code, findings = run("-m", name)
    assert (code, problems(findings)) == (0, {})
    checks = [one["check"] for one in findings]
    assert checks == [
        *("server", "version", "primary", "encoding", "pooler", "rights", "round trip"),
        *("settings", "clock", "channels", "listening", "transactions", "queue", "log"),
        "subscriptions",
    ]
    assert all(one["seen"].endswith(".") and one["advice"] is None for one in findings)


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("pool_size", [1, 5])
@pytest.mark.usefixtures("listens")
def test_a_pooler_that_shares_sessions(pgnotifier_dsn, db, mode, pool_size):
    """A pooler in transaction or statement mode is named, with its mode; nothing is left in it."""
    with pgbouncer(pgnotifier_dsn, mode, pool_size) as dsn:
        code, findings = run("--dsn", dsn)
        assert code == 1
        assert problems(findings).keys() == {"pooler"}
        assert f"A pooler in {mode} mode" in problems(findings)["pooler"]
        assert "pool_mode=session" in problems(findings)["pooler"]
        last = db.execute("SELECT query FROM pg_stat_activity WHERE query ILIKE 'listen%'")
        assert [query for (query,) in last if "orders" not in query] == []


@pytest.mark.usefixtures("listens")
def test_a_pooler_with_sessions(pgnotifier_dsn):
    """A pooler in session mode is fine."""
    with pgbouncer(pgnotifier_dsn, "session") as dsn:
        code, findings = run("--dsn", dsn)
        assert (code, problems(findings)) == (0, {})
        assert "session of its own" in next(
            one["seen"] for one in findings if one["check"] == "pooler"
        )


def test_a_standby_server(pgnotifier_private_postgres):
    """A standby server is named; the primary is to be used."""
    with replica_of(pgnotifier_private_postgres) as standby:
        code, findings = run("--dsn", standby.dsn)
    assert code == 1
    assert problems(findings, "failed").keys() == {"primary"}
    assert "target_session_attrs=read-write" in problems(findings)["primary"]


@pytest.mark.usefixtures("log")
def test_a_missing_right(pgnotifier_dsn, make_role, write):
    """A role that lacks the rights of its durable subscriptions is named, with the command."""
    name, dsn = make_role()
    module = write(dsn, "'pay', 'orders', print, durable=True")
    code, findings = run("-m", module)
    assert code == 1
    assert problems(findings).keys() == {"log"}
    assert f"pgnotifier install --grant-listener {name}" in problems(findings)["log"]
    with psycopg.connect(pgnotifier_dsn) as owner:
        grant(owner, name, "listener")
    code, findings = run("-m", module)
    assert (code, problems(findings, "failed")) == (0, {})


@pytest.mark.parametrize(
    "body",
    [
        "PERFORM pg_notify('orders', NEW.id::text)",
        "NOTIFY Orders",
        "EXECUTE 'NOTIFY \"orders\"'",
        "-- pg_notify('Orders', 'x')\n PERFORM pg_catalog.pg_notify ( 'orders', 'x')",
    ],
)
@pytest.mark.usefixtures("listens")
def test_a_wrong_case(pgnotifier_dsn, db, write, body):
    """A channel that a function notifies in another spelling is named, with the function."""
    db.execute(
        "CREATE FUNCTION placed() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {body}; RETURN NULL; END $$"
    )
    code, findings = run("-m", write(pgnotifier_dsn, "'pay', 'Orders', print"))
    assert code == 1
    assert problems(findings).keys() == {"channels"}
    assert (
        "'Orders', but the function public.placed() notifies 'orders'"
        in (problems(findings)["channels"])
    )
    code, findings = run("--dsn", pgnotifier_dsn, "--channel", "orders")
    assert (code, problems(findings)) == (0, {})


@pytest.mark.usefixtures("listens")
def test_capitals_that_are_meant(pgnotifier_dsn, db):
    """Capital letters are a warning, unless a function notifies exactly that channel."""
    code, findings = run("--dsn", pgnotifier_dsn, "-c", "Orders")
    assert code == 0
    assert problems(findings).keys() == {"channels"}
    db.execute(
        "CREATE FUNCTION placed() RETURNS void LANGUAGE sql AS $$ SELECT pg_notify('Orders', '') $$"
    )
    assert problems(run("--dsn", pgnotifier_dsn, "-c", "Orders")[1]) == {}
    assert (
        "differ by case"
        in problems(run("--dsn", pgnotifier_dsn, "-c", "Orders", "-c", "ORDERS")[1])["channels"]
    )


@pytest.mark.usefixtures("listens")
def test_an_old_transaction(pgnotifier_dsn):
    """A transaction that has been open for long is named by its pid and application."""
    with psycopg.connect(pgnotifier_dsn, application_name="shop\x1b[31m") as idle:
        idle.execute("SELECT 1")
        pid = idle.info.backend_pid
        code, findings = run("--dsn", pgnotifier_dsn, "--old", "0")
        assert code == 0
        assert problems(findings).keys() == {"transactions"}
        said = problems(findings)["transactions"]
        assert f"pid {pid} " in said
        assert "idle in transaction" in said
        assert f"pg_terminate_backend({pid})" in said
        assert "\x1b" not in said
        assert problems(run("--dsn", pgnotifier_dsn)[1]) == {}


@pytest.mark.parametrize("minutes", [10, -10])
@pytest.mark.usefixtures("listens")
def test_a_clock_that_is_off(pgnotifier_dsn, minutes):
    """A clock that is ten minutes off is named, with the direction."""
    case = Case(find_target(pgnotifier_dsn), now=lambda: time.time() + 60 * minutes)
    found = [one.to_dict() for one in examine(case)]
    assert problems(found).keys() == {"clock"}
    way = "10 min ahead of" if minutes > 0 else "10 min behind"
    assert f"The clock of this machine is {way} that of the server" in problems(found)["clock"]


def test_nobody_listens(pgnotifier_dsn, make_notifier):
    """Nobody who listens is a warning, and so are two listeners; a leader with a standby isn't."""
    assert problems(run("--dsn", pgnotifier_dsn)[1]).keys() == {"listening"}
    leaders = [make_notifier(pgnotifier_dsn, standby="shop") for _ in range(2)]
    leaders[0].add_channel("orders")
    leaders[1].add_channels(["orders"], autorun=False)
    leaders[1].start()
    code, findings = run("--dsn", pgnotifier_dsn)
    assert (code, problems(findings)) == (0, {})
    assert any("1 session listens" in one["seen"] and "leader" in one["seen"] for one in findings)
    for _ in range(2):
        make_notifier(pgnotifier_dsn).add_channel("orders")
    code, findings = run("--dsn", pgnotifier_dsn)
    assert code == 0
    assert "the same standby=" in problems(findings)["listening"]


@pytest.mark.usefixtures("listens")
def test_settings_of_the_role(make_role, pgnotifier_dsn, db):
    """Timeouts that a listener overrides are mentioned, which is fine."""
    name, dsn = make_role()
    for setting in ("statement_timeout = '9s'", "shop.key = 'sesame-4711'"):
        db.execute(sql.SQL(f"ALTER ROLE {{}} SET {setting}").format(sql.Identifier(name)))
    code, findings = run("--dsn", dsn)
    assert (code, problems(findings)) == (0, {})
    assert any("override statement_timeout" in one["seen"] for one in findings)


@contextmanager
def silence():
    """Yield the port of a server that accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_server_that_hangs():
    """A server that accepts connections and doesn't answer is given up after the timeout."""
    with silence() as port:
        begun = time.monotonic()
        code, findings = run(
            "--dsn", f"host=127.0.0.1 port={port} password={SECRET}", "--timeout", "0.5"
        )
    assert code == 1
    assert "no answer within 0.5 s" in problems(findings)["server"]
    assert time.monotonic() - begun < 30


@pytest.mark.usefixtures("listens")
def test_a_host_that_hangs(pgnotifier_dsn):
    """Of several hosts, one that doesn't answer leaves time for the next."""
    given = conninfo_to_dict(pgnotifier_dsn)
    with silence() as port:
        several = {"host": f"127.0.0.1,{given['host']}", "port": f"{port},{given['port']}"}
        code, findings = run("--dsn", make_conninfo(**{**given, **several}), "--timeout", "1")
    assert (code, problems(findings)) == (0, {})


def test_a_server_that_stops_answering(pgnotifier_private_postgres):
    """A server that freezes between two checks is given up, too."""
    # A lock that a query waits for stands for it.
    dsn = pgnotifier_private_postgres.dsn
    with psycopg.connect(dsn) as locker:
        locker.execute("LOCK TABLE pg_catalog.pg_db_role_setting IN ACCESS EXCLUSIVE MODE")
        case = Case(find_target(dsn), timeout=1.0)
        # New sessions would wait for that lock as well, but a round trip needs one.
        found = [one.to_dict() for one in examine(case)]
    assert problems(found, "failed")
    assert "no answer within" in " ".join(problems(found, "failed").values())


@pytest.mark.parametrize(
    ("change", "says", "advice"),
    [
        ({"host": "127.0.0.1", "port": "1"}, "refused", "Start the server"),
        ({"host": "nowhere.invalid"}, "nowhere.invalid", "Correct the host name"),
        ({"host": "/nowhere"}, "No such file", "directory of its socket"),
        ({"dbname": "nothing"}, "does not exist", "name of the database"),
        ({"user": "nobody"}, "does not exist", "CREATE ROLE"),
        ({"sslmode": "require", "host": "127.0.0.1"}, "", ""),
        ({"service": "nowhere"}, "service", "PGSERVICEFILE"),
    ],
)
def test_out_of_reach(pgnotifier_dsn, change, says, advice):
    """Each reason why there is no connection has its own way out; the password isn't shown."""
    given = {**conninfo_to_dict(pgnotifier_dsn), "password": SECRET, **change}
    code, findings = run("--dsn", make_conninfo(**given))
    assert code == 1
    assert problems(findings).keys() == {"server"}
    assert says in problems(findings)["server"]
    assert advice in problems(findings)["server"]


@pytest.mark.usefixtures("listens")
def test_a_service_file(pgnotifier_dsn, tmp_path, monkeypatch):
    """The password of a service file isn't shown, whether or not the server can be reached."""
    given = {**conninfo_to_dict(pgnotifier_dsn), "password": SECRET}
    away = {**given, "port": "1"}
    lines = ["[shop]", *(f"{name}={value}" for name, value in given.items())]
    lines += ["[away]", *(f"{name}={value}" for name, value in away.items())]
    (tmp_path / "services").write_text("\n".join(lines))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert run("--dsn", "service=shop")[0] == 0
    assert run("--dsn", "service=away")[0] == 1


def test_a_role_that_may_not_connect(pgnotifier_dsn, make_role, db):
    """A role without CONNECT is named, with the GRANT."""
    _, dsn = make_role()
    database = sql.Identifier(conninfo_to_dict(dsn)["dbname"])
    db.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(database))
    code, findings = run("--dsn", dsn)
    db.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO PUBLIC").format(database))
    assert code == 1
    assert "GRANT CONNECT" in problems(findings)["server"]


def test_nothing_to_examine():
    """What names nothing is an error of usage."""
    done = CliRunner().invoke(pgnotifier, ["doctor", "-m", "there.is.none"])
    assert done.exit_code == 2


def test_a_log_that_is_missing(pgnotifier_dsn, write):
    """A durable subscription in a database without the log is named, with the command."""
    code, findings = run("-m", write(pgnotifier_dsn, "'pay', 'orders', print, durable=True"))
    assert code == 1
    assert problems(findings).keys() == {"log"}
    assert "pgnotifier install" in problems(findings)["log"]


@pytest.mark.usefixtures("log", "listens")
def test_a_log_in_use(pgnotifier_dsn, db, make_notifier, write, eventually):
    """Subscriptions without a reader, plain NOTIFY on their channels and outboxes are named."""
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe("pay", "paid", lambda *_: None, durable=True)
    module = write(pgnotifier_dsn, "'pay', 'paid', print, durable=True")
    eventually(lambda: db.execute("SELECT 1 FROM pgnotifier.list_positions() WHERE pid > 0"))
    code, findings = run("-m", module)
    assert (code, problems(findings)) == (0, {})
    notifier.stop()
    eventually(lambda: not db.execute("SELECT 1 FROM pgnotifier.list_positions() WHERE pid > 0"))
    db.execute(
        "CREATE FUNCTION paid() RETURNS void LANGUAGE sql AS $$ SELECT pg_notify('paid', '') $$"
    )
    db.execute(
        "WITH opened AS MATERIALIZED"
        " (SELECT pgnotifier.open_outbox('a', 'pgnotifier:celery:default'))"
        " SELECT pgnotifier.enqueue('a.b') FROM opened"
    )
    code, findings = run("-m", module)
    assert code == 1
    assert problems(findings, "failed").keys() == {"outbox"}
    assert "has no relay: 1 message waits, the oldest" in problems(findings)["outbox"]
    assert problems(findings, "warning").keys() == {"channels", "positions"}
    assert "Nobody reads the durable subscription 'pay'" in problems(findings)["positions"]
    assert "pgnotifier.publish('paid'" in problems(findings)["channels"]


@pytest.mark.usefixtures("log", "listens")
def test_a_log_that_is_full(pgnotifier_dsn, db, monkeypatch):
    """A log that takes no more is named."""
    db.execute("SELECT pgnotifier.configure(NULL, 1)")
    db.execute("SELECT * FROM pgnotifier.reclaim(NULL, NULL, NULL)")
    db.execute("SELECT * FROM pgnotifier.reclaim(NULL, NULL, NULL)")
    code, findings = run("--dsn", pgnotifier_dsn)
    assert code == 1
    assert problems(findings).keys() == {"space"}
    assert "takes no more" in problems(findings)["space"]


@pytest.mark.usefixtures("listens")
def test_as_text(pgnotifier_dsn):
    """Without --json, each check has a line, and the last line counts what was found."""
    arguments = ["doctor", "--dsn", pgnotifier_dsn, "-c", "Orders\x1b[2J\u202e"]
    done = CliRunner().invoke(pgnotifier, arguments, catch_exceptions=False)
    *lines, last = done.output.splitlines()
    assert done.exit_code == 0
    assert all(line.startswith(("ok       ", "warning  ")) for line in lines)
    assert last == "All is well."
    assert "\x1b" not in done.output
    assert "\u202e" not in done.output


@pytest.mark.usefixtures("log")
def test_an_outbox_that_was_never_relayed(pgnotifier_dsn, tmp_path, monkeypatch):
    """An outbox of the app that nobody has relayed yet is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "clinic_outbox.py").write_text(
        "from celery import Celery\n"
        "from pgnotifier.contrib.celery import CeleryNotifier\n"
        "app = Celery('clinic', broker='redis://127.0.0.1:1/0')\n"
        f"app.conf.pgnotifier_dsn = {pgnotifier_dsn!r}\n"
        "notifier = CeleryNotifier(app)\n"
        "outbox = notifier.outbox\n"
    )
    code, findings = run("-m", "clinic_outbox")
    assert code == 1
    assert problems(findings).keys() == {"outbox", "broker"}
    assert "'celery:default' has never been relayed" in problems(findings)["outbox"]


def test_ctrl_c(tmp_path, monkeypatch):
    """Ctrl-C ends it with 130, also while the user's module is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "clinic_interrupted.py").write_text("raise KeyboardInterrupt")
    assert CliRunner().invoke(pgnotifier, ["doctor", "-m", "clinic_interrupted"]).exit_code == 130
