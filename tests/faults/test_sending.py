"""`pgnotifier send` through a pooler."""

import psycopg
import pytest
from click.testing import CliRunner

from pgnotifier.cli.command import pgnotifier

from .pgbouncer import pgbouncer


@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
def test_a_pooler(pool_mode, pgnotifier_dsn, log, tmp_path):
    """Each statement may have another session, and none needs what another one has left there."""
    path = tmp_path / "lines"
    path.write_text("same\n" * 20)
    with (
        psycopg.connect(pgnotifier_dsn, autocommit=True) as listening,
        pgbouncer(pgnotifier_dsn, pool_mode) as pooled,
    ):
        listening.execute("LISTEN orders")
        for more in ((), ("--durable", "--key", "k")):
            arguments = ["send", "orders", "--dsn", pooled, "--file", str(path), *more]
            done = CliRunner().invoke(pgnotifier, arguments)
            assert done.exit_code == 0, done.output
        found = [one.payload for one in listening.notifies(timeout=60, stop_after=20)]
    assert found == ["same"] * 20
    assert log.execute("SELECT count(*) FROM pgnotifier.log WHERE key = 'k'") == [(20,)]
