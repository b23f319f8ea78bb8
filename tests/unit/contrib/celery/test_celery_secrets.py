"""Passwords of brokers, of result backends and of `pgnotifier_dsn` are never shown."""

import traceback
from itertools import product

import pytest
from celery import Celery

from pgnotifier import ArgumentTypeError, ConfigurationError, Notifier
from pgnotifier.contrib.celery import CeleryDispatcher
from pgnotifier.contrib.celery.broker import Broker

SECRETS = ["hid/qzx", "hid#qzx", "hid?qzx", "hid[qzx", "hid]qzx", "hid%qzx", "hid@qzx", "hid qzx"]
REFUSED = "percent-encode characters"


def connect(**conf):
    """Return the traceback of a connection that fails, as text."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(broker_connection_timeout=0.5, **conf)
    with pytest.raises(Exception, match=r".") as caught, Broker(app).lease():
        pass
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("scheme", "secret"),
    [
        *product(["redis", "rediss", "amqp", "amqps"], SECRETS),
        *product(["sentinel"], ["hid/qzx", "hid qzx"]),  # fewer, because it is slow
    ],
)
def test_broker_urls(scheme, secret, free_port):
    """The password isn't shown if the server is down, or if the URL can't be parsed."""
    said = connect(
        broker_url=f"{scheme}://u:{secret}@127.0.0.1:{free_port}/0",
        broker_transport_options={"master_name": "main", "max_retries": 0},
    )
    assert "hid" not in said
    assert "qzx" not in said
    assert (REFUSED in said) == any(char in secret for char in "/#?[]")


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:{port}/0;redis://:hid/qzx@127.0.0.1:{port}/0",
        ["redis://127.0.0.1:{port}/0", "redis://:hid/qzx@127.0.0.1:{port}/0"],
        "amqp://u:hid;qzx@127.0.0.1:{port}//",
        "redis://u:hid:6379/0",  # the @ and the host are missing
    ],
)
def test_lists_of_urls(url, free_port):
    """All URLs of a list are checked before one is used."""
    urls = [one.format(port=free_port) for one in ([url] if isinstance(url, str) else url)]
    said = connect(broker_url=urls if isinstance(url, list) else urls[0])
    assert "hid" not in said
    assert REFUSED in said


def test_result_backends(make_app, make_desk):
    """If the result backend's URL can't be parsed, the batch is kept and the URL isn't shown."""
    app = make_app(result_backend="redis://:hid/qzx@127.0.0.1:1/0")
    desk = make_desk(app)
    binding = desk.subscribe(lambda *_: None, ignore_result=False)
    with pytest.raises(ConfigurationError, match="result_backend") as caught:
        desk.deliver(binding, "1")
    assert "hid" not in "".join(traceback.format_exception(caught.value))
    assert not desk.reported


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:hidqzx@h/db",
        "host=h password=hidqzx",
        {"host": "h", "password": "hidqzx", "sslpassword": "hidqzx"},
    ],
)
def test_settings_that_are_shown(dsn):
    """`celery report` and `celery inspect conf` don't show the password in `pgnotifier_dsn`."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.pgnotifier_dsn = dsn
    assert "pgnotifier_dsn" in app.conf.humanize()
    assert "hidqzx" not in app.conf.humanize()
    assert "hidqzx" not in str(app.conf.table(with_defaults=True))
    assert app.conf.pgnotifier_dsn == dsn


def test_what_is_mistaken_for_an_app():
    """If the URL of a broker is passed instead of an app, the error doesn't show it."""
    with pytest.raises(ArgumentTypeError) as caught:
        CeleryDispatcher("redis://:hidqzx@h/0")
    assert "hidqzx" not in str(caught.value)


def test_canvases(make_app):
    """`details()` shows the tasks of a canvas, but not the passwords in its arguments."""
    app = make_app()

    @app.task
    def audit(*args, token=None):
        pass

    dispatcher = CeleryDispatcher(app)
    notifier = Notifier("host=h", dispatcher=dispatcher, autorun=False)
    notifier.subscribe("a", "ch", audit.s(token="hidqzx") | audit.s(url="redis://:hidqzx@h"))
    app.finalize()
    assert "hidqzx" not in str(dispatcher.details())
    assert "audit" in str(dispatcher.details())
