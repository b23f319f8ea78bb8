"""Run an embedded PostgreSQL server, and create a database for each test."""

from __future__ import annotations

import re
import secrets
import signal
import stat
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier.testing.data_directory import directories
from pgnotifier.testing.errors import ServerError
from pgnotifier.testing.process import Steps, SupervisedProcess
from pgnotifier.testing.server import Server
from pgnotifier.testing.wheels import find_postgres

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

USER = "postgres"
LOCK_FILE = "data/postmaster.pid"
SOCKET_PORT = 5432  # names the socket file; nothing listens there unless tcp=True

# https://www.postgresql.org/docs/18/server-shutdown.html
STOP_STEPS: Mapping[str, Steps] = {
    "fast": ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)),
    "immediate": ((signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)),
}

# The data needs to survive a crash of the server, but not one of the machine.
SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    # Files in the data directory, so that SIGKILL leaves nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    "huge_pages": "off",
    "io_method": "sync",  # no I/O worker processes
    "scram_iterations": "1",  # 4096 take longer than the rest of a connection attempt
}
SINCE: Mapping[str, int] = {"io_method": 18, "scram_iterations": 16}
"""The first major version that has a setting."""
STRATEGY_SINCE = 15  # of CREATE DATABASE


class PostgresServer(Server):
    """An embedded PostgreSQL 18, with a unix socket that only its owner can open.

    If this process runs as root, the server runs as the user `nobody`. If `nobody` can't read the
    binaries, it runs from a copy of them. Set `PGNOTIFIER_TEST_POSTGRES_HOME` to run another
    installation, of PostgreSQL 14 or newer.
    """

    variable: ClassVar[str] = "PGNOTIFIER_TEST_DSN"

    def __init__(
        self,
        *,
        tcp: bool = False,
        password: str | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Describe a server; `start` creates it.

        Args:
            tcp: Also listen on a free port of 127.0.0.1, which requires a password.
            password: That password. Default: a random one. The unix socket requires none.
            settings: Server parameters by name, in addition to the default ones.

        Raises:
            ValueError: A password was given without `tcp`.
            ServerError: `PGNOTIFIER_TEST_DSN` is set, but not to a conninfo string.
        """
        if password is not None and not tcp:
            raise ValueError("password needs tcp=True: the unix socket requires no password")
        super().__init__()
        if self._external is not None:
            _check_conninfo(self._external, self.variable)
        self._tcp = tcp
        self._password = password or secrets.token_urlsafe(16)
        self._settings = {**SETTINGS, **(settings or {})}
        self._version = 0  # until it is started

    @property
    def dsn(self) -> str:
        """The conninfo string of the database `postgres`, for a superuser, with the password.

        Raises:
            ServerError: The server hasn't been started yet.
        """
        if self._external is not None:
            return self._external
        if not self._tcp:
            return self._socket_dsn()
        self._owned()
        return make_conninfo(
            host="127.0.0.1",
            port=self._port,
            user=USER,
            password=self._password,
            dbname="postgres",
        )

    def dsn_for(self, dbname: str) -> str:
        """Return the conninfo string of another database on this server."""
        return make_conninfo(self.dsn, dbname=dbname)

    def create_database(self, name: str | None = None, *, template: str = "template1") -> str:
        """Create a database and return its conninfo string.

        Args:
            name: Its name. Default: a random one.
            template: The name of the database that it is to be a copy of, to which nobody may be
                connected. Default: "template1", which is empty.
        """
        name = name or f"pgn_{secrets.token_hex(6)}"
        statement = "CREATE DATABASE {} TEMPLATE {}"
        if self._copies_files():
            statement += " STRATEGY FILE_COPY"
        names = map(sql.Identifier, (name, template))
        self._execute(sql.SQL(statement).format(*names))
        return self.dsn_for(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and end its sessions."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self._execute(statement.format(sql.Identifier(name)))

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """Yield the conninfo string of a new database, and drop it at the end.

        Args:
            template: As for `create_database`.
        """
        name = f"pgn_{secrets.token_hex(6)}"
        dsn = self.create_database(name, template=template)
        try:
            yield dsn
        finally:
            self.drop_database(name)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server; keep its data and address for the next `start`.

        Args:
            mode: "fast" ends sessions properly, "immediate" drops them as a crash would.

        Raises:
            ExternalServerError: The environment variable names the server.
        """
        self._stop(STOP_STEPS[mode])

    def _create(self) -> SupervisedProcess:
        home = installed = find_postgres()
        process = SupervisedProcess(
            steps=STOP_STEPS["immediate"], unprivileged=True, lock_file=LOCK_FILE
        )
        try:
            if process.user is not None and not _is_open_to_others(home):
                process.copy(_list_files(home))
                home = process.directory / "install" / home.parent.name / home.name
            self._version = _read_version(home)
            self._make_data(process, home, installed)
            self._configure(process.directory / "data" / "postgresql.conf")
        except BaseException:
            process.close()
            raise
        self._binary = home / "bin" / "postgres"
        return process

    def _configure(self, file: Path) -> None:
        # Not with options of initdb, which has them only since PostgreSQL 16.
        settings = {n: v for n, v in self._settings.items() if SINCE.get(n, 0) <= self._version}
        with file.open("a", encoding="utf-8") as conf:
            for name, value in settings.items():
                quoted = str(value).replace("\\", "\\\\").replace("'", "''")
                conf.write(f"{name} = '{quoted}'\n")

    def _make_data(self, process: SupervisedProcess, home: Path, installed: Path) -> None:
        """Make the data directory, with the programs in `home`, a copy perhaps of `installed`."""
        # Use PostgreSQL's own C.UTF-8 if it has one: the system may not have that locale.
        builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb = [
            str(home / "bin" / "initdb"),
            f"--pgdata={process.directory / 'data'}",
            f"--username={USER}",
            "--encoding=UTF8",
            *(builtin if self._version >= 17 else ()),
            "--locale=C",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--no-sync",
            "--no-instructions",
        ]
        directories.make(process, installed, initdb)

    def _copies_files(self) -> bool:
        """Return whether CREATE DATABASE needs an option to copy files.

        That takes half the time of its other way, unless files have to reach the disk. Before
        version 15, there is no other way.
        """
        return self._external is None and self._version >= STRATEGY_SINCE

    def _needs_port(self) -> bool:
        return self._tcp

    def _argv(self) -> Sequence[str]:
        directory = self._owned().directory
        return [
            str(self._binary),
            *("-D", str(directory / "data")),
            *("-k", str(directory)),
            *("-p", str(self._port or SOCKET_PORT)),
            *("-h", "127.0.0.1" if self._tcp else ""),
        ]

    def _is_ready(self, pid: int) -> bool:
        # The first line is the pid. An earlier server that was killed may have left a file.
        # https://www.postgresql.org/docs/18/storage-file-layout.html
        try:
            lines = (self._owned().directory / LOCK_FILE).read_text().split()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(pid)] and lines[-1] == "ready"

    def _prepare(self) -> None:
        if self._tcp:
            with psycopg.connect(self._socket_dsn(), autocommit=True) as connection:
                # Hashed here, so that no setting can make the server log the password.
                hashed = connection.pgconn.encrypt_password(
                    self._password.encode(), USER.encode(), b"scram-sha-256"
                ).decode()
                connection.execute(
                    sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(USER), hashed)
                )

    def _socket_dsn(self) -> str:
        return make_conninfo(
            host=str(self._owned().directory),
            port=self._port or SOCKET_PORT,
            user=USER,
            dbname="postgres",
        )

    def _execute(self, statement: sql.Composed) -> None:
        try:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                connection.execute(statement)
        except psycopg.Error as error:
            raise ServerError(f"{self!r}: {error}") from error


@contextmanager
def postgres_server(
    *,
    tcp: bool = False,
    password: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> Iterator[str]:
    """Run a PostgreSQL server, and yield its conninfo string.

    If `PGNOTIFIER_TEST_DSN` is set, the server that it names is used instead, and the arguments
    have no effect.

    Args:
        tcp: Also listen on a free port of 127.0.0.1, which requires a password.
        password: That password. Default: a random one. The unix socket requires none.
        settings: Server parameters by name, in addition to the default ones.
    """
    with PostgresServer(tcp=tcp, password=password, settings=settings) as server:
        yield server.dsn


def _check_conninfo(conninfo: str, variable: str) -> None:
    try:
        conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        # Not chained: libpq quotes the text that it can't parse, which may be the password.
        raise ServerError(f"{variable} must be a valid conninfo string or URI") from None


def _read_version(home: Path) -> int:
    """Return the major version of an installation."""
    argv = [str(home / "bin" / "postgres"), "--version"]
    answer = subprocess.run(argv, capture_output=True, text=True, check=False)
    found = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    if found is None:
        raise ServerError(f"{argv[0]} can't be run: {answer.stdout}{answer.stderr}")
    return int(found[1])


def _is_open_to_others(home: Path) -> bool:
    """Return whether all users may run the programs of an installation."""
    program = (home / "bin" / "postgres").resolve()
    return all(path.stat().st_mode & stat.S_IXOTH for path in (program, *program.parents))


def _list_files(home: Path) -> Iterator[tuple[Path, str]]:
    # Only the files that a server needs: no headers, static libraries and clients.
    site = home.parent.parent
    libraries = site / f"{home.parent.name}.libs"
    programs = [home / "bin" / name for name in ("postgres", "initdb", "pg_basebackup")]
    files = [*programs, *home.glob("lib/**/*.so*"), home / "share", libraries]
    for source in files:
        if source.exists():
            # Keep the layout: the programs find share and their libraries by relative paths.
            yield source, str("install" / source.relative_to(site))
