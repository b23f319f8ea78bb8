"""The soak runs, detects every kind of fault, and cleans up."""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgnotifier import Gap

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def soaking(monkeypatch):
    """Make the soak's modules importable."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def ledger(soaking):
    """Return an empty ledger."""
    from soaking.accounting import Ledger

    return Ledger(["invoices"])


# --- the run ---


class Run:
    """A soak as a process, with a mark that all its descendants inherit."""

    def __init__(self, directory, *arguments):
        self.mark = f"SOAK_MARK={secrets.token_hex(8)}"
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, BENCHMARKS / "soak.py", *map(str, arguments)],
            env=os.environ | dict([self.mark.split("=")]) | {"TMPDIR": str(directory)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def left_behind(self):
        """Return the processes and files that still exist."""
        processes = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended, or belongs to another user
                if self.mark.encode() in environ.read_bytes().split(b"\0"):
                    processes.append((environ.parent / "cmdline").read_bytes())
        return processes + list(self.directory.iterdir())


@pytest.fixture
def run(tmp_path):
    """Yield a function that starts a soak."""
    runs = []

    def start(*arguments):
        runs.append(Run(tmp_path, *arguments))
        return runs[-1]

    yield start
    for one in runs:
        one.process.kill()
        one.process.communicate()


@pytest.mark.gate
@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_short_soak_accounts_for_everything(run, eventually):
    """In 20 seconds with faults, nothing is lost, doubled or disordered, and it cleans up.

    What was published durably is delivered, whatever happened.
    """
    one = run("--minutes", 1 / 3, "--every", 1, "--seed", 20)
    output, _ = one.process.communicate(timeout=200)
    assert one.process.returncode == 0, output[-8000:]
    assert output.startswith("--seed 20 ")
    rows = dict(re.findall(r"^(\S.*?)  +([\d,.]+)$", output, re.MULTILINE))
    found = {name: float(value.replace(",", "")) for name, value in rows.items()}
    assert found["faults"] >= 3
    assert found["delivered by a call"] == found["delivered as a task"] > 20_000
    undelivered = found["sent"] - found["delivered by a call"]
    explained = found["not delivered, in a gap"]
    explained += found["not delivered, nobody knows if committed"]
    assert 0 <= undelivered - explained <= 100  # those sent to removed channels
    assert found["lost"] == found["doubled"] == found["disordered"] == 0
    kept = found["durable: published"] - found["durable: nobody knows if committed"]
    assert found["durable: delivered by a call"] == found["durable: delivered as a task"] == kept
    assert kept > 5_000
    assert found["durable: lost"] == 0
    eventually(lambda: not one.left_behind())


@pytest.mark.gate
@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_soak_leaves_nothing_behind(run, how, eventually):
    """SIGINT or SIGTERM ends the servers and the listener, and deletes their files."""
    one = run("--minutes", 5, "--every", 0.5)
    for _ in range(4):  # the seed, and three faults
        assert one.process.stdout.readline()
    one.process.send_signal(how)
    output, _ = one.process.communicate(timeout=120)
    assert one.process.returncode == 130, output
    assert "Traceback" not in output
    eventually(lambda: not one.left_behind())


# --- the accounting ---


def commit(ledger, *channels, sender=1, ended=True, **options):
    """Enter a transaction in the ledger, and return the keys of its notifications."""
    commit, keys = ledger.begin(sender, channels, **options)
    if ended:
        time.sleep(0.002)
        commit.ended = time.time()
    return keys


def deliver(ledger, key, channel="orders", routes=("callback", "task")):
    """Enter a notification's deliveries in the ledger."""
    for route in routes:
        ledger.deliver(route, key, channel, f"id of {key}" if route == "task" else "")


def gap(since, until, *channels):
    """Return a gap between two times in seconds."""
    return Gap(
        datetime.fromtimestamp(since, UTC),
        datetime.fromtimestamp(until, UTC),
        frozenset(channels or ["orders"]),
        "a test",
    )


def test_all_delivered_is_not_an_offence(ledger):
    """If all notifications come once, in order and by both routes, there is no offence."""
    keys = [*commit(ledger, "orders", "payments"), *commit(ledger, "orders", sender=2)]
    for key, channel in zip(keys, ["orders", "payments", "orders"], strict=True):
        assert not ledger.has_come(key)
        deliver(ledger, key, channel)
        assert ledger.has_come(key)
    ledger.settle()
    assert not ledger.offences
    assert ledger.totals.sent == 3
    assert ledger.totals.came == {"callback": 3, "task": 3}


@pytest.mark.parametrize("routes", [(), ("callback",), ("task",)])
def test_a_lost_one_is_noticed(ledger, routes):
    """A notification that doesn't come, or only by one route, is lost."""
    (key,) = commit(ledger, "orders")
    deliver(ledger, key, routes=routes)
    ledger.settle(time.time() + 1)
    assert not ledger.offences  # its gap may still be reported
    ledger.settle()
    assert ledger.offences == {"lost": 1}


def test_a_gap_explains_what_may_have_been_committed_in_it(ledger):
    """A gap explains a loss if the commit overlaps it, and the channel is the same."""
    start = time.time()
    commit(ledger, "orders")
    end = time.time()
    for since, until in ((start - 9, start - 1), (end + 1, end + 9)):
        ledger.add_gap(gap(since, until))
    ledger.add_gap(gap(start, end, "payments"))
    ledger.settle(end + 20)
    assert ledger.totals.in_gaps == 0
    ledger.add_gap(gap(start - 9, (start + end) / 2))
    ledger.settle()
    assert ledger.totals.in_gaps == 1
    assert not ledger.offences


def test_a_gap_does_not_explain_half_a_delivery(ledger):
    """If a notification came by a call, it must come as a task too, whether in a gap or not."""
    (key,) = commit(ledger, "orders")
    deliver(ledger, key, routes=["callback"])
    ledger.add_gap(gap(time.time() - 9, time.time() + 9))
    ledger.settle()
    assert ledger.offences == {"lost": 1}


def test_a_doubled_one_is_noticed(ledger):
    """A second call or a second task is an offence; the same task id again is not."""
    (key,) = commit(ledger, "orders")
    deliver(ledger, key)
    ledger.deliver("task", key, "orders", f"id of {key}")
    assert not ledger.offences
    assert ledger.totals.again == 1
    ledger.deliver("callback", key, "orders")
    ledger.deliver("task", key, "orders", "another")
    assert ledger.offences == {"doubled": 2}


def test_one_that_comes_once_more_much_later_is_noticed(ledger):
    """A notification that comes after the ledger has settled it is an offence."""
    (key,) = commit(ledger, "orders")
    deliver(ledger, key)
    ledger.settle(time.time() + 1)
    ledger.deliver("callback", key, "orders")
    assert ledger.offences == {"unknown": 1}


def test_disorder_of_one_sender_is_noticed(ledger):
    """On one channel, a sender's earlier notification must not come after a later one."""
    first, other, second = commit(ledger, "orders", "payments", "orders")
    deliver(ledger, second)
    deliver(ledger, other, "payments")
    assert not ledger.offences
    deliver(ledger, first, routes=["task"])
    assert ledger.offences == {"disordered": 1}


def test_disorder_of_two_senders_is_noticed(ledger):
    """A notification must not come after one from a transaction that began after its commit."""
    (first,) = commit(ledger, "orders", sender=1)
    (overlapping,) = commit(ledger, "orders", sender=2, ended=False)
    (second,) = commit(ledger, "orders", sender=3)
    for key in (second, overlapping):
        deliver(ledger, key)
    assert not ledger.offences
    deliver(ledger, first, routes=["callback"])
    assert ledger.offences == {"disordered": 1}


def test_an_unknown_outcome_excuses_absence_alone(ledger):
    """If it is unknown whether a commit succeeded, both routes may deliver, or neither."""
    _, came, half = (commit(ledger, "orders", ended=False)[0] for _ in range(3))
    deliver(ledger, came)
    deliver(ledger, half, routes=["callback"])
    ledger.settle()
    assert ledger.totals.perhaps == 1
    assert ledger.offences == {"lost": 1}


def test_no_gap_explains_a_durable_one(ledger):
    """What was published durably and doesn't come is lost, whatever gap there was."""
    start = time.time()
    for channel in ("orders", "invoices"):
        commit(ledger, channel)
    ledger.add_gap(gap(start - 9, time.time() + 9))
    ledger.settle()
    assert (ledger.totals.in_gaps, ledger.durable.in_gaps) == (1, 0)
    assert ledger.offences == {"durable lost": 1}


def test_a_durable_one_may_come_again(ledger):
    """A second call or the same task is counted, but another task is an offence."""
    (key,) = commit(ledger, "invoices")
    deliver(ledger, key, "invoices")
    deliver(ledger, key, "invoices")
    assert ledger.durable.again == 2
    assert not ledger.offences
    ledger.deliver("task", key, "invoices", "another")
    assert ledger.offences == {"doubled": 1}
    ledger.settle()
    assert ledger.durable.came == {"callback": 1, "task": 1}
    assert (ledger.totals.sent, ledger.durable.sent) == (0, 1)


def test_an_unknown_outcome_of_a_durable_one(ledger):
    """If it is unknown whether it was committed, it may come or not; but not by half."""
    _, half = (commit(ledger, "invoices", ended=False)[0] for _ in range(2))
    deliver(ledger, half, "invoices", routes=["task"])
    ledger.settle()
    assert ledger.durable.perhaps == 1
    assert ledger.offences == {"durable lost": 1}


def test_disorder_of_durable_ones_is_noticed(ledger):
    """What was committed before another one was published has to come before it."""
    first, second = (commit(ledger, "invoices", sender=one)[0] for one in (1, 2))
    for key in (second, first):
        deliver(ledger, key, "invoices", routes=["task"])
    assert ledger.offences == {"disordered": 1}


def test_deliveries_of_removed_channels_are_noticed(ledger):
    """A delivery from a removed channel is an offence; if there is none, nothing is lost."""
    ledger.mark_removed("orders", removed=True)
    first, _ = commit(ledger, "orders", "orders", expected=False)
    deliver(ledger, first)
    assert ledger.offences == {"unwanted": 1}
    ledger.mark_removed("orders", removed=False)
    ledger.settle()
    assert ledger.offences == {"unwanted": 1}


def test_misrouted_and_bad_gaps_are_noticed(ledger):
    """Deliveries on the wrong channel, and gaps with times that are invalid, are offences."""
    (key,) = commit(ledger, "orders")
    ledger.deliver("callback", key, "payments")
    now = time.time()
    ledger.add_gap(gap(now, now - 1))
    ledger.add_gap(Gap(datetime.now(), datetime.now(), frozenset("a"), "x"))  # noqa: DTZ005
    ledger.add_gap(gap(now, now + 1, "orders", "invoices"))  # a durable channel has none
    assert ledger.offences == {"misrouted": 1, "bad gap": 3}


def test_time_in_gaps_is_counted_once(ledger):
    """Time in several overlapping gaps is counted once."""
    for since, until in ((10, 14), (11, 12), (13, 16), (20, 21)):
        ledger.add_gap(gap(since, until))
    assert ledger.disconnected() == 7


def test_a_grown_process_is_noticed(soaking, ledger):
    """If memory, threads or descriptors have grown by more than a little, that is an offence."""
    from soak import Outcome, judge
    from soaking.process import Usage

    before = Usage(70.0, 4, 10)
    judge(ledger, Outcome(1, 1, before, Usage(80.0, 4, 11)))
    assert not ledger.offences
    judge(ledger, Outcome(1, 1, before, Usage(170.0, 14, 20)))
    assert ledger.offences == {"growth": 3}


# --- the proxy ---


@pytest.fixture
def echo():
    """Yield the address of an echo server."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(one):
        with one, contextlib.suppress(OSError):
            while data := one.recv(65536):
                one.sendall(data)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=listening.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listening.getsockname()
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


@pytest.fixture
def proxy(soaking, echo):
    """Yield a proxy in front of the echo server."""
    from soaking.proxy import FaultyProxy

    with FaultyProxy(echo) as proxy:
        yield proxy


def connect(proxy):
    """Return a connection through the proxy that has already passed data."""
    one = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    assert ask(one, b"hello") == b"hello"
    return one


def ask(one, data):
    """Send data, and return an answer of the same length, or less at the end."""
    one.sendall(data)
    answer = b""
    while len(answer) < len(data):
        if not (more := one.recv(65536)):
            break
        answer += more
    return answer


def test_the_proxy_delays_and_throttles(proxy):
    """Data is delayed in both directions, or slowed down to the given rate."""
    from soaking.proxy import FAIR, Weather

    with connect(proxy) as one:
        for weather in (Weather(delay=0.1), Weather(rate=50_000)):
            proxy.weather = weather
            begun = time.monotonic()
            assert ask(one, bytes(10_000)) == bytes(10_000)
            assert time.monotonic() - begun >= 0.2
        proxy.weather = FAIR
        assert ask(one, b"again") == b"again"


@pytest.mark.parametrize("swallowed", ["requests answers", "requests", "answers"])
def test_what_was_swallowed_on_stays_dead(proxy, swallowed):
    """A connection that has lost bytes gets no answer any more; a new one does."""
    from soaking.proxy import FAIR, Weather

    with connect(proxy) as one:
        proxy.weather = Weather(swallows=frozenset(swallowed.split()))
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ask(one, b"lost")
        proxy.weather = FAIR
        with pytest.raises(TimeoutError):
            ask(one, b"lost as well")
        with connect(proxy):
            pass


def test_the_proxy_cuts_and_resets(proxy):
    """`cut` ends connections with FIN, `reset` with RST; afterwards new ones can be made."""
    with connect(proxy) as one:
        proxy.cut()
        assert one.recv(1) == b""
    with connect(proxy) as one:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    with connect(proxy):
        pass


def test_the_proxy_refuses_when_the_server_is_down(soaking, tmp_path):
    """If the server is down, the proxy closes the client's connection."""
    from soaking.proxy import FaultyProxy

    with (
        FaultyProxy(tmp_path / "none") as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as one,
        contextlib.suppress(ConnectionResetError),
    ):
        assert one.recv(1) == b""


# --- the listener's process ---


def test_a_gap_survives_the_pipe(soaking):
    """A gap that is written as JSON and parsed is equal to the original."""
    from soaking.process import parse_gap

    one = gap(1000.25, 1001.5, "orders", "ümläut")
    assert parse_gap(json.loads(json.dumps(one.to_dict()))) == one
