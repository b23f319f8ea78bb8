"""The configuration of examples/deploy works: its own programs read it, and run with it."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest

from .pgbouncer import pgbouncer
from .waiting import eventually

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
ITS_OWN = {"listen_addr", "listen_port", "auth_type", "auth_file", "pool_mode", "default_pool_size"}
"""What a PgBouncer of a test sets itself."""
EXPOSURE = 20
"""The highest exposure that `systemd-analyze security` may find, in tenths; a unit that is allowed
everything has 96."""


@pytest.fixture
def unit(tmp_path):
    """A copy of the systemd unit with a program that exists."""
    if shutil.which("systemd-analyze") is None:
        missing = "no systemd-analyze here. Run: apt install systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    text = (DEPLOY / "systemd" / "shop-listener.service").read_text()
    program = shutil.which("true")
    copy = tmp_path / "shop-listener.service"
    copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={program}", text, flags=re.MULTILINE))
    return copy


def test_systemd_unit(unit):
    """Systemd understands each line of the unit."""
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_hardening(unit):
    """The unit may do little but what a listener needs."""
    argv = ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}", unit]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_grace_periods():
    """Whatever stops a listener leaves it longer than it may take to deliver the rest, 30 s."""
    compose = (DEPLOY / "compose.yaml").read_text().partition("listener:")[2]
    kubernetes = (DEPLOY / "kubernetes" / "listener.yaml").read_text()
    systemd = (DEPLOY / "systemd" / "shop-listener.service").read_text()
    periods = [
        re.search(r"stop_grace_period: (\d+)s", compose),
        re.search(r"terminationGracePeriodSeconds: (\d+)", kubernetes),
        re.search(r"TimeoutStopSec=(\d+)", systemd),
    ]
    paused = int(re.search(r'command: \["sleep", "(\d+)"\]', kubernetes)[1])
    assert [int(one[1]) > 30 + paused for one in periods] == [True, True, True]


def test_publishing_through_pgbouncer(pgnotifier_dsn, make_notifier, ledger):
    """With this configuration, NOTIFY goes through PgBouncer, and the listener past it."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(DEPLOY / "pgbouncer" / "pgbouncer.ini")
    found = dict(config["pgbouncer"])
    assert found["pool_mode"] == "transaction"
    settings = {name: value for name, value in found.items() if name not in ITS_OWN}
    notifier = make_notifier(pgnotifier_dsn)
    notifier.subscribe(1, "orders", ledger.callback)
    size = int(found["default_pool_size"])
    with pgbouncer(pgnotifier_dsn, "transaction", size, **settings) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_notify('orders', '7')")
        eventually(lambda: ledger.delivered == [(7, "orders")])
