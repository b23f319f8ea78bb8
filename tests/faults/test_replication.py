"""A streaming-replication pair: the standby refuses LISTEN, and a failover is followed."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgnotifier import ListenRefusedError

from .replica import replica_of
from .waiting import eventually

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def replica(pgnotifier_private_postgres):
    """Yield a standby of this test's own server."""
    with replica_of(pgnotifier_private_postgres) as server:
        yield server


def test_a_standby_refuses(replica, make_notifier):
    """Listening on a standby raises an error that says so, and how to find the primary."""
    notifier = make_notifier(replica.dsn)
    with pytest.raises(ListenRefusedError, match=r"standby.*target_session_attrs=read-write"):
        notifier.add_channel("orders")
    assert notifier.get_channels() == set()


def test_a_failover(pgnotifier_private_postgres, replica, make_notifier, ledger):
    """After a failover, the promoted one of several hosts is found, and one gap is reported."""
    primary = pgnotifier_private_postgres
    hosts = [conninfo_to_dict(server.dsn) for server in (primary, replica)]
    together = make_conninfo(
        host=",".join(one["host"] for one in hosts),
        port=",".join(one["port"] for one in hosts),
        user=hosts[0]["user"],
        dbname=hosts[0]["dbname"],
        target_session_attrs="read-write",
    )
    notifier = make_notifier(together, on_gap=ledger.gaps.append)
    notifier.subscribe(1, "orders", ledger.callback)
    notifier.notify("orders", 1)
    eventually(lambda: ledger.delivered == [(1, "orders")])
    primary.kill()
    eventually(lambda: notifier.status().state == "disconnected")
    replica.promote()
    eventually(lambda: notifier.status().state == "listening")
    with psycopg.connect(replica.dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_notify('orders', '2')")
    eventually(lambda: ledger.delivered == [(1, "orders"), (2, "orders")])
    assert len(ledger.gaps) == 1
