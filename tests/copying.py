"""Dump databases, and restore the dumps, as pg_dump and psql do."""

import subprocess

import psycopg
import pytest

from pgnotifier.testing.wheels import find_postgres


def dump(dsn, *options):
    """Return what pg_dump writes."""
    program = find_postgres() / "bin" / "pg_dump"
    if not program.exists():
        pytest.skip("this installation of PostgreSQL has no pg_dump")
    command = [str(program), "--no-owner", *options, dsn]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def restore(dump, target):
    """Execute a dump, as psql would."""
    lines = iter(dump.splitlines(keepends=True))
    statements = ""
    with psycopg.connect(target, autocommit=True) as connection:
        for line in lines:
            if line.startswith("COPY "):
                connection.execute(statements.encode())
                statements = ""
                with connection.cursor().copy(line.encode()) as copy:
                    for row in iter(lambda: next(lines), "\\.\n"):
                        copy.write(row)
            elif not line.startswith("\\"):
                statements += line
        connection.execute(statements.encode())
