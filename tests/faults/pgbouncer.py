"""A private PgBouncer in front of a database."""

import os
import re
import shutil
import signal
import socket
import subprocess
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier.testing.process import SupervisedProcess
from pgnotifier.testing.server import Server


class PgBouncer(Server):
    """PgBouncer on a port of 127.0.0.1, which asks for no password."""

    variable = "PGNOTIFIER_TEST_PGBOUNCER"

    def __init__(self, program, dsn, pool_mode, pool_size, settings):
        super().__init__()
        self._program = program
        self._target = conninfo_to_dict(dsn)
        self._pool_mode = pool_mode
        self._pool_size = pool_size
        self._settings = settings

    @property
    def dsn(self):
        """The conninfo string that leads to the database through the pooler."""
        return make_conninfo(
            host="127.0.0.1",
            port=self._port,
            user=self._target["user"],
            dbname=self._target["dbname"],
            sslmode="require" if "client_tls_sslmode" in self._settings else "disable",
        )

    def _create(self):
        return SupervisedProcess(steps=((signal.SIGKILL, 10.0),), unprivileged=True)

    def _needs_port(self):
        return True

    def _argv(self):
        target = " ".join(f"{name}={value}" for name, value in self._target.items())
        path = self._owned().directory / "pgbouncer.ini"
        path.write_text(
            f"[databases]\n{self._target['dbname']} = {target}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self._port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = {self._pool_mode}\n"
            f"default_pool_size = {self._pool_size}\n"
            "ignore_startup_parameters = extra_float_digits\n"
            + "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        )
        path.chmod(0o644)
        return [self._program, str(path)]

    def _is_ready(self, pid):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _prepare(self):
        """Do nothing: it needs no preparation."""


def find_program():
    """Return the path of PgBouncer; skip the test if there is none."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        missing = "no PgBouncer here. Run: apt install pgbouncer"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return program


def knows_prepared_statements():
    """Return whether this PgBouncer knows prepared statements as psycopg uses them.

    https://www.psycopg.org/psycopg3/docs/advanced/prepare.html#using-prepared-statements-with-pgbouncer
    """
    said = subprocess.run([find_program(), "--version"], capture_output=True, text=True, check=True)
    major, minor = re.findall(r"PgBouncer (\d+)\.(\d+)", said.stdout)[0]
    return (int(major), int(minor)) >= (1, 22) and psycopg.capabilities.has_send_close_prepared()


@contextmanager
def pgbouncer(dsn, pool_mode, pool_size=5, **settings):
    """Run a PgBouncer and yield its conninfo string."""
    with PgBouncer(find_program(), dsn, pool_mode, pool_size, settings) as server:
        yield server.dsn
