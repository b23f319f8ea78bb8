"""The command `pgnotifier listen`, with RQ and with inline callbacks."""

import json
import signal

import pytest
from rq import Queue

from pgnotifier.cli.probing import probe

SOURCE = """
@notifier.on(["orders", "images"], id="book")
def bookkeep(id, channel, payload, pid):
    write("jobs", payload)

@notifier.on("images", id="here", dispatcher=InlineDispatcher())
def inline(id, channel, payload, pid):
    write("inline", os.getpid(), payload)
"""

SLOW = """
@notifier.on("orders", dispatcher=InlineDispatcher())
def slow(id, channel, payload, pid):
    write("begun", payload)
    book.blpop([os.environ["QUEUE"] + ":go"], 60)
    write("done", payload)
"""


def enqueued(shop):
    """Return the payloads of the jobs on the queue, in order."""
    return [job.args[2] for job in Queue(shop.queue, connection=shop.redis).jobs]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_drains_and_ends(open_shop, number):
    """After a signal, the listener enqueues what it has received, and exits with 0."""
    shop = open_shop(SOURCE)
    listener = shop.listener()
    shop.notify(*(("orders", str(n)) for n in range(2000)), ("images", "-1"))
    shop.wait_written("inline", 1)  # so all others were received
    listener.signal(number)
    assert listener.wait() == 0
    assert enqueued(shop) == [*range(2000), -1]
    assert "everything received was delivered" in listener.log
    assert "Traceback" not in listener.log
    assert shop.sessions() == 0


def test_in_process(open_shop):
    """Callbacks of an inline dispatcher are called in the listener's process."""
    shop = open_shop(SOURCE)
    listener = shop.listener()
    shop.notify(("images", "1"), ("images", "2"))
    assert shop.wait_written("inline", 2) == [(listener.process.pid, n) for n in (1, 2)]


def test_standby_and_health(open_shop, free_port, eventually):
    """A listener on standby is healthy, and takes over when the leader is killed."""
    shop = open_shop(SOURCE)
    leader = shop.listener("--standby")
    where = ("--health-port", str(free_port), "--health-host", "::")
    second = shop.pgnotifier("listen", "shop", "--standby", *where)
    eventually(lambda: "standby" in probe(free_port)[1] or second.process.poll() is not None)
    assert probe(free_port)[0]
    assert probe(free_port, host="::1")[0]
    leader.process.kill()
    second.wait_for("took over")
    shop.notify(("orders", "1"))
    eventually(lambda: enqueued(shop) == [1])


def test_what_cannot_be_delivered_in_time_is_logged(open_shop):
    """If `--drain-timeout` passes, the undelivered notifications are logged; the exit code is 1."""
    shop = open_shop(SLOW)
    listener = shop.listener("--drain-timeout", "0.3")
    shop.notify(("orders", "1"), ("orders", "2"))
    shop.wait_written("begun", 1)
    listener.signal(signal.SIGTERM)
    assert listener.wait() == 1
    assert "1 notification undelivered" in listener.log


def test_some_channels_only(open_shop, eventually):
    """`--channel` leaves out all other channels; a channel without a subscription is an error."""
    shop = open_shop(SOURCE)
    shop.listener("-c", "orders")
    shop.notify(("images", "1"), ("orders", "2"))
    eventually(lambda: enqueued(shop) == [2])
    refused = shop.pgnotifier("listen", "shop", "-c", "image")
    assert refused.wait() == 2
    assert "no subscription on channel 'image' (did you mean 'images'?)" in refused.log


def test_what_is_wrong_is_shown(open_shop):
    """A missing module ends the command with 2, a failed connection with 1; both say why."""
    shop = open_shop(SOURCE)
    nothing = shop.pgnotifier("listen", "nowhere")
    assert nothing.wait() == 2
    assert "there is no module 'nowhere'" in nothing.log
    disconnected = shop.pgnotifier(
        "listen", "shop", "--no-wait", DSN="host=127.0.0.1 port=1 password=sesame"
    )
    assert disconnected.wait() == 1
    assert disconnected.log.startswith("Error: can't connect to PostgreSQL")
    assert "sesame" not in disconnected.log


def test_list(open_shop):
    """`--list` prints channels, subscriptions and callbacks, and connects to nothing."""
    shop = open_shop(SOURCE)
    table = shop.pgnotifier("listen", "shop", "--list", DSN="host=127.0.0.1 port=1")
    assert table.wait() == 0
    assert [line.split() for line in table.log.splitlines()] == [
        ["CHANNEL", "SUBSCRIPTION", "CALLBACK"],
        ["images", "book", "shop.bookkeep"],
        ["images", "here", "shop.inline"],
        ["orders", "book", "shop.bookkeep"],
    ]
    listing = shop.pgnotifier("listen", "shop", "--list", "--json", "-c", "orders")
    assert listing.wait() == 0
    assert json.loads(listing.log) == [
        {"channel": "orders", "id": "book", "callback": "shop.bookkeep"}
    ]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_nothing_is_lost_while_redis_is_away(open_shop, pgnotifier_private_valkey, eventually, end):
    """Notifications wait while Redis is away, and are enqueued once each, in order."""
    shop = open_shop(SOURCE, broker=pgnotifier_private_valkey.url)
    shop.listener()
    shop.notify(*(("orders", str(n)) for n in range(100)))
    eventually(lambda: len(enqueued(shop)) == 100)
    getattr(pgnotifier_private_valkey, end)()
    shop.notify(*(("orders", str(n)) for n in range(100, 300)))
    pgnotifier_private_valkey.start()
    shop.notify(*(("orders", str(n)) for n in range(300, 400)))
    eventually(lambda: len(enqueued(shop)) >= 400, 60)
    assert enqueued(shop) == list(range(400))
