"""Start the demo's servers, two workers and the listener, and always end them."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import redis
from psycopg.conninfo import make_conninfo

from pgnotifier.demo.processes import CeleryProcess, DemoError, quote_log, stop_all
from pgnotifier.demo.recording import Records
from pgnotifier.demo.view import View
from pgnotifier.durable import install
from pgnotifier.testing import PostgresServer, ValkeyServer

if TYPE_CHECKING:
    from pgnotifier.testing.server import Server

WORKERS = ("alpha", "beta")
CHILDREN = 2
"""Prefork processes of each worker."""
APPLICATION_NAME = "pgnotifier-demo"
SESSIONS = 2
"""The listener's database sessions: one listens, and one reads what is published durably."""
LOOK_EVERY = 0.05  # seconds
READY_TIMEOUT = 60.0  # seconds; three are usual, but machines that run tests are busy
QUIET_OPTIONS = ("--without-gossip", "--without-mingle", "--without-heartbeat")

SCHEMA = Path(__file__).with_name("schema.sql")

FIND_SESSIONS = """
SELECT pid FROM pg_catalog.pg_stat_activity
WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
AND application_name OPERATOR(pg_catalog.=) %s
AND state OPERATOR(pg_catalog.=) 'idle' AND query OPERATOR(pg_catalog.<>) ''
"""
SUBSCRIBED = "SELECT EXISTS (SELECT FROM pgnotifier.subscription)"


class Stage:
    """The running servers and processes. Only the main thread uses it."""

    def __init__(self, postgres: PostgresServer, valkey: ValkeyServer, dsn: str) -> None:
        self.postgres = postgres
        self.dsn = dsn
        self.broker_url = valkey.url
        self.records = Records(valkey.url)
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.processes: list[CeleryProcess] = []
        self._servers: tuple[Server, ...] = (postgres, valkey)

    def start_processes(self, app: str) -> None:
        """Start the workers and the listener in parallel."""
        env = {
            "PGNOTIFIER_DEMO_DSN": make_conninfo(self.dsn, application_name=APPLICATION_NAME),
            "PGNOTIFIER_DEMO_BROKER_URL": self.broker_url,
        }
        for name in WORKERS:
            command = ["worker", f"--hostname={name}@%h", f"--concurrency={CHILDREN}"]
            arguments = [*command, *QUIET_OPTIONS, "--loglevel=INFO"]
            self.processes.append(CeleryProcess(f"worker {name}", app, arguments, env))
        self.processes.append(CeleryProcess("listener", app, ["pgnotifier"], env))

    def wait_ready(self, view: View) -> None:
        """Wait until both workers are ready for tasks, and the listener is listening.

        Raises:
            DemoError: One of them has ended, or took over a minute.
        """
        deadline = time.monotonic() + READY_TIMEOUT
        waiting = {*WORKERS, "listener"}
        while waiting:
            time.sleep(LOOK_EVERY)
            for record in self.records.read():
                if record["kind"] == "ready" and record["worker"] in waiting:
                    waiting.remove(record["worker"])
                    view.part(record["worker"], f"pid {record['pid']}")
            if "listener" in waiting and self.is_listening():
                waiting.remove("listener")
                view.part("listener", f"pid {self.processes[-1].pid}")
            self.check()
            if time.monotonic() > deadline:
                logs = "\n".join(f"{p.name}: {p.log_tail()}" for p in self.processes)
                raise DemoError(f"not ready after a minute: {', '.join(sorted(waiting))}\n{logs}")

    def check(self) -> None:
        """Raise if a process or a server has ended.

        Raises:
            DemoError: The message ends with the end of its log.
        """
        for process in self.processes:
            process.check()
        for server in self._servers:
            if not server.is_running():
                raise DemoError(f"{type(server).__name__} has ended. {quote_log(server.log())}")

    def is_listening(self) -> bool:
        """Return whether the listener listens, and its durable subscription has a position."""
        row = self.connection.execute(SUBSCRIBED).fetchone()
        assert row is not None
        return len(self.find_sessions()) >= SESSIONS and bool(row[0])

    def find_sessions(self) -> list[int]:
        """Return the pids of the listener's database sessions, as far as they are ready."""
        found = self.connection.execute(FIND_SESSIONS, [APPLICATION_NAME])
        return [int(pid) for (pid,) in found]

    def cut_sessions(self) -> None:
        """Terminate the listener's database sessions."""
        for pid in self.find_sessions():
            self.connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Translate errors of the servers' clients, and report a server that has ended.

        Raises:
            DemoError: Instead of the client's error.
        """
        try:
            yield
        except (psycopg.Error, redis.RedisError) as exc:
            self.check()
            raise DemoError(f"a server failed: {exc}") from exc

    def close(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the processes; give them less time after Ctrl-C or an error."""
        # Ignore further signals: this takes a bounded time, and must not be left half done.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        stop_all(self.processes, quick=kind is not None)
        self.connection.close()
        self.records.close()


@contextmanager
def set_stage(app: str, view: View) -> Iterator[Stage]:
    """Start everything, yield it, and end everything.

    Args:
        app: The module of the Celery app.
        view: The view that shows the progress.

    Raises:
        ServerNotInstalledError: The wheel of a server isn't installed.
        ServerError: A server could not be started.
        DemoError: Something else could not be started, or has ended by itself.
    """
    with ExitStack() as stack:
        view.part("PostgreSQL", "starting")
        postgres = stack.enter_context(PostgresServer())
        # On an embedded server, the database doesn't have to be dropped; the server may even
        # have ended by then.
        external = postgres.is_external
        dsn = stack.enter_context(postgres.database()) if external else postgres.create_database()
        view.part("Valkey", "starting")
        valkey = stack.enter_context(ValkeyServer())
        stage = Stage(postgres, valkey, dsn)
        stack.push(stage.close)
        stack.enter_context(stage.explaining())
        view.part("PostgreSQL", _postgres_version(stage.connection))
        view.part("Valkey", _broker_version(stage.broker_url))
        install(stage.connection)
        stage.connection.execute(SCHEMA.read_bytes())
        for name in ("listener", *WORKERS):
            view.part(name, "starting")
        stage.start_processes(app)
        stage.wait_ready(view)
        yield stage


def _postgres_version(connection: psycopg.Connection[Any]) -> str:
    major, minor = divmod(connection.info.server_version, 10_000)
    return f"{major}.{minor}"


def _broker_version(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        info: Any = client.info("server")
    return str(info.get("valkey_version") or info["redis_version"])
