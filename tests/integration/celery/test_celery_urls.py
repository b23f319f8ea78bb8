"""Every way in which Celery reaches a broker: TLS, Sentinel, sockets; and idle connections."""

import asyncio
import functools
import logging
import secrets
import signal
import ssl
import tempfile
import threading
from contextlib import ExitStack

import pytest
import redis
import trustme
from celery import Celery
from kombu import Queue
from kombu.utils.url import url_to_parts

from pgnotifier.contrib.celery import CeleryDispatcher
from pgnotifier.testing.process import SupervisedProcess, choose_base
from pgnotifier.testing.wheels import find_valkey


class Relay:
    """A proxy to a server, on a port or a Unix socket, with or without TLS for the clients."""

    def __init__(self, url, path=None, tls=None):
        parts = url_to_parts(url)
        self._to = parts.hostname, parts.port
        self._writers = set()
        self._loop = asyncio.new_event_loop()
        if path:
            serving = asyncio.start_unix_server(self._serve, path)
        else:
            serving = asyncio.start_server(self._serve, "127.0.0.1", ssl=tls)
        self._server = self._loop.run_until_complete(serving)
        self.address = path or "{}:{}".format(*self._server.sockets[0].getsockname())
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self):
        """Close all connections, as a firewall does, or a server that restarts."""
        self._do(self._cut())

    def _do(self, work):
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _cut(self):
        while self._writers:
            transport = self._writers.pop().transport
            if not transport.is_closing():  # aborting a closing one fails in early Python 3.11
                transport.abort()

    async def _close(self):
        self._server.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader, writer):
        onward, away = await asyncio.open_connection(*self._to)
        self._writers |= {writer, away}
        await asyncio.gather(_pump(reader, away), _pump(onward, writer), return_exceptions=True)


async def _pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@pytest.fixture(scope="module")
def authority():
    """Return a certificate authority."""
    return trustme.CA()


@pytest.fixture
def relay():
    """Yield a function that makes relays, which are closed after the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(Relay(*args, **kwargs))


@pytest.fixture
def tls_relay(relay, authority):
    """Return a function that makes relays with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return functools.partial(relay, tls=context)


@pytest.fixture
def sentinel(pgnotifier_redis_url):
    """Yield the URL of a Sentinel that watches over the Valkey server as `shop`."""
    process = SupervisedProcess(steps=((signal.SIGKILL, 10.0),), unprivileged=False)
    try:
        port = process.reserve_port()
        conf = process.directory / "sentinel.conf"
        parts = url_to_parts(pgnotifier_redis_url)
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor shop 127.0.0.1 {parts.port} 1\n"
        )
        process.spawn([str(find_valkey()), str(conf), "--sentinel"])
        yield f"sentinel://127.0.0.1:{port}"
    finally:
        process.close()


@pytest.fixture
def short_directory():
    """Yield a directory with a path short enough for a socket in it."""
    with tempfile.TemporaryDirectory(dir=choose_base(for_others=False)) as directory:
        yield directory


@pytest.fixture
def broker(request, eventually):
    """Return the settings with which an app reaches its broker in the way that the test tries."""
    get = request.getfixturevalue
    match request.param:
        case "redis+tls":
            relay = get("tls_relay")(get("pgnotifier_redis_url"))
            ca = get("tmp_path") / "ca.pem"
            get("authority").cert_pem.write_to_path(ca)
            return {
                "broker_url": f"rediss://{relay.address}/0",
                "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(ca)},
            }
        case "redis+socket":
            path = f"{get('short_directory')}/valkey"
            get("relay")(get("pgnotifier_redis_url"), path)
            return {"broker_url": f"redis+socket://{path}"}
        case "sentinel":
            url = get("sentinel")
            with redis.Redis(port=url_to_parts(url).port) as client:
                eventually(lambda: _knows_master(client))
            return {"broker_url": url, "broker_transport_options": {"master_name": "shop"}}
        case "redis, failover list":
            url = get("pgnotifier_redis_url")
            return {"broker_url": f"redis://127.0.0.1:1/0;{url}"}
        case "rabbitmq+tls":
            relay = get("tls_relay")(get("rabbitmq").url)
            ca = get("tmp_path") / "ca.pem"
            get("authority").cert_pem.write_to_path(ca)
            return {
                "broker_url": f"amqps://guest:guest@{relay.address}//",
                "broker_use_ssl": {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": str(ca)},
            }
        case "rabbitmq, failover list":
            return {"broker_url": f"amqp://127.0.0.1:1//;{get('rabbitmq').url}"}


def _knows_master(client):
    try:
        return client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop")
    except redis.ConnectionError:
        return None


def delivered(notifier):
    """Return the number of notifications that were delivered to the broker."""
    (dispatcher,) = notifier.status().dispatchers
    return dispatcher.delivered


def take_payloads(app):
    """Take the payloads of all messages out of the app's queue, as a worker would."""
    payloads = []
    with app.connection_for_read() as connection:
        queue = Queue(app.conf.task_default_queue)(connection.channel())
        while message := queue.get(no_ack=True):
            payloads.append(message.payload[0][2])
    return payloads


@pytest.fixture
def make_app():
    """Return a function that makes apps, each with a queue of its own."""
    return lambda **conf: Celery(
        "shop",
        set_as_current=False,
        config_source={**conf, "task_default_queue": secrets.token_hex(8)},
    )


REDIS = ["redis+tls", "redis+socket", "sentinel", "redis, failover list"]
RABBIT = ["rabbitmq+tls", "rabbitmq, failover list"]


@pytest.mark.parametrize("broker", REDIS + RABBIT, indirect=True)
def test_ways_to_a_broker(broker, make_app, pgnotifier_dsn, make_notifier, db, caplog, eventually):
    """However the broker is reached, stamped messages arrive, and a consumer can read them."""
    caplog.set_level(logging.WARNING)
    app = make_app(**broker)
    notifier = make_notifier(pgnotifier_dsn, dispatcher=CeleryDispatcher(app))
    notifier.subscribe("a", "ch", print)
    notifier.start()
    for number in range(300):
        db.notify("ch", number)
    eventually(lambda: delivered(notifier) == 300)
    (dispatcher,) = notifier.status().dispatchers
    assert dispatcher.details["subscriptions"][0]["path"] == "stamped"
    assert take_payloads(app) == list(range(300))
    assert not caplog.records


@pytest.mark.parametrize("server", ["pgnotifier_redis_url", "rabbitmq"])
@pytest.mark.parametrize("with_tls", [False, True])
def test_an_idle_connection_is_closed(
    request, server, with_tls, make_app, pgnotifier_dsn, make_notifier, db, caplog, eventually
):
    """An idle connection that the broker has closed is replaced without a warning."""
    caplog.set_level(logging.WARNING)
    found = request.getfixturevalue(server)
    url = getattr(found, "url", found)
    relay = request.getfixturevalue("tls_relay" if with_tls else "relay")(url)
    parts = url_to_parts(url)
    scheme = url.partition(":")[0] + ("s" if with_tls else "")
    user = f"{parts.username}:{parts.password}@" if parts.username else ""
    options = "?ssl_cert_reqs=none" if with_tls and scheme == "rediss" else ""
    app = make_app(
        broker_url=f"{scheme}://{user}{relay.address}/{parts.path}{options}",
        broker_use_ssl={"cert_reqs": ssl.CERT_NONE} if scheme == "amqps" else None,
    )
    notifier = make_notifier(pgnotifier_dsn, dispatcher=CeleryDispatcher(app))
    notifier.subscribe("a", "ch", print)
    notifier.start()
    for number in range(6):
        db.notify("ch", number)
        eventually(lambda number=number: delivered(notifier) == number + 1)
        if number % 2:
            relay.cut()
    assert take_payloads(app) == list(range(6))
    assert not caplog.records
