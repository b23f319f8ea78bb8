"""Servers that move, are full, hang or die under load."""

import contextlib
import logging
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks.soaking.proxy import EVERYTHING, FAIR, FaultyProxy, Weather
from pgnotifier.testing import PostgresServer

from .conftest import Sessions
from .load import Sender
from .waiting import eventually

CHANNELS = ["orders", "stock"]
BOUND = 2.0
"""Seconds within which it listens again once the server is there."""


def proxy_for(dsn):
    """Return a proxy in front of the server behind the conninfo's socket."""
    params = conninfo_to_dict(dsn)
    return FaultyProxy(Path(params["host"]) / f".s.PGSQL.{params['port']}")


def state(notifier):
    """Return the notifier's state."""
    return notifier.status().state


def own_server(**settings):
    """Return a new server, or skip the test if the environment names an external one."""
    server = PostgresServer(**settings)
    if server.is_external:
        pytest.skip("needs a server of its own: unset PGNOTIFIER_TEST_DSN")
    return server


@pytest.fixture
def listen(make_notifier, ledger):
    """Return a function that starts a notifier with deliveries and gaps recorded in the ledger."""

    def start(dsn):
        notifier = make_notifier(dsn, on_gap=ledger.gaps.append)
        for channel in CHANNELS:
            notifier.subscribe("book", channel, ledger.callback)
        return notifier

    return start


def test_another_port_behind_the_same_name(listen, ledger, tmp_path, monkeypatch):
    """A service name is looked up for each connection, so that a server's new port is found."""
    service = tmp_path / "services.conf"
    monkeypatch.setenv("PGSERVICEFILE", str(service))

    def point_to(dsn):
        settings = "".join(f"{name}={value}\n" for name, value in conninfo_to_dict(dsn).items())
        service.write_text(f"[shop]\n{settings}")

    with own_server(tcp=True) as server:
        point_to(server.dsn)
        notifier = listen({"service": "shop"})
        with Sender("service=shop", CHANNELS) as sender:
            sender.wait_for(200)
            server.stop()
            before = server._port
            server._port = server._owned().reserve_port()
            assert server._port != before
            server.start()
            point_to(server.dsn)
            began = time.monotonic()
            eventually(lambda: state(notifier) == "listening")
            assert time.monotonic() - began < BOUND
            sender.wait_for(200)
            ledger.settle(sender, notifier)
        ledger.check(sender.sent, CHANNELS)
        assert len(ledger.gaps) == 1


def test_no_connection_is_left(listen, ledger, caplog):
    """While `max_connections` is reached, the status says so; it reconnects when there is room."""
    caplog.set_level(logging.WARNING, "pgnotifier")
    with own_server(settings={"max_connections": 6, "reserved_connections": 0}) as server:
        admin = Sessions(server.dsn)
        admin.execute("CREATE ROLE shop LOGIN")
        dsn = make_conninfo(server.dsn, user="shop")
        notifier = listen(dsn)
        with contextlib.ExitStack() as others, Sender(server.dsn, CHANNELS) as sender:
            sender.wait_for(100)
            with pytest.raises(psycopg.OperationalError, match="slots"):
                while True:
                    others.enter_context(psycopg.connect(dsn))
            eventually(lambda: "slots" in (notifier.status().why or "") or grab(admin, dsn, others))
            sender.wait_for(200)
            others.close()
            began = time.monotonic()
            eventually(lambda: state(notifier) == "listening")
            assert time.monotonic() - began < BOUND
            ledger.settle(sender, notifier)
        ledger.check(sender.sent, CHANNELS)
    assert [record.name for record in caplog.records] == ["pgnotifier.states"] * 2  # lost, and back


def grab(admin, dsn, others):
    """End the listener's session and try to take its slot; return False, to try again."""
    admin.terminate()
    with contextlib.suppress(psycopg.OperationalError):
        others.enter_context(psycopg.connect(dsn))
    return False


@pytest.mark.parametrize("how", ["first", "again"])
def test_one_of_several_hosts_hangs(listen, ledger, pgnotifier_dsn, sessions, monkeypatch, how):
    """A hanging host delays the first connection by `connect_timeout`, a later one by seconds."""
    # From the second attempt on, hosts are tried in a random order.
    monkeypatch.setattr("psycopg._conninfo_attempts.shuffle", list.reverse)
    hanging = Weather(swallows=EVERYTHING)
    with proxy_for(pgnotifier_dsn) as one, proxy_for(pgnotifier_dsn) as two:
        one.weather = hanging if how == "first" else FAIR
        notifier = listen(
            make_conninfo(
                pgnotifier_dsn,
                host="127.0.0.1,127.0.0.1",
                port=f"{one.port},{two.port}",
                connect_timeout=2 if how == "first" else 600,
            )
        )
        assert two.accepted == (how == "first")
        if how == "again":
            one.weather = hanging
            one.cut()
            eventually(lambda: notifier.status().reconnects)
        sessions.notify("orders", 1)
        eventually(lambda: ledger.delivered == [(1, "orders")])


@pytest.mark.parametrize("weather", [Weather(delay=0.3), Weather(rate=30_000)], ids=str)
def test_a_slow_network(listen, ledger, pgnotifier_dsn, weather):
    """On a network with delays or a low rate, everything arrives over the first connection."""
    with proxy_for(pgnotifier_dsn) as proxy:
        notifier = listen(make_conninfo(pgnotifier_dsn, host="127.0.0.1", port=proxy.port))
        with Sender(pgnotifier_dsn, CHANNELS) as sender:
            proxy.weather = weather
            sender.wait_for(3000)
            ledger.settle(sender, notifier)
        assert ledger.check(sender.sent, CHANNELS) == 0
        status = notifier.status()
        assert (status.reconnects, ledger.gaps) == (0, [])
        assert weather.rate or status.latency.highest > weather.delay


def test_resets(listen, ledger, pgnotifier_dsn):
    """Each RST, which discards data in transit, makes a gap that covers the loss."""
    with proxy_for(pgnotifier_dsn) as proxy:
        notifier = listen(make_conninfo(pgnotifier_dsn, host="127.0.0.1", port=proxy.port))
        with Sender(pgnotifier_dsn, CHANNELS) as sender:
            for count in range(1, 11):
                sender.wait_for(100)
                proxy.reset()
                eventually(lambda count=count: notifier.status().reconnects == count)
            ledger.settle(sender, notifier)
        ledger.check(sender.sent, CHANNELS)
        assert len(ledger.gaps) == 10


def test_no_storm_in_the_log(listen, sessions, caplog):
    """Repeated disconnections log one warning a minute, and so do the reconnects."""
    caplog.set_level(logging.WARNING, "pgnotifier")
    notifier = listen(sessions.dsn)
    for count in range(1, 21):
        sessions.terminate()
        eventually(lambda count=count: notifier.status().reconnects == count)
    lost, back = (record.getMessage() for record in caplog.records)
    assert "disconnected" in lost
    assert "again" in back
