"""The soak runs, fails when it has to, and leaves nothing behind."""

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
    """Yield empty books."""
    from soaking.accounting import Ledger

    return Ledger()


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
        """Return processes and files that are still there."""
        processes = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # gone, or somebody else's
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
@pytest.mark.timeout(240)
def test_a_short_soak_accounts_for_everything(run, eventually):
    """Twenty seconds of faults lose, double and disorder nothing, and leave nothing behind."""
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
    assert 0 <= undelivered - explained <= 100  # what was sent to removed channels
    assert found["lost"] == found["doubled"] == found["disordered"] == 0
    eventually(lambda: not one.left_behind())


@pytest.mark.gate
@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_soak_leaves_nothing_behind(run, how, eventually):
    """Ctrl-C in the middle ends the servers and the listener, and deletes their files."""
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
    """Enter a transaction, and return its notifications."""
    commit, keys = ledger.begin(sender, channels, **options)
    if ended:
        time.sleep(0.002)
        commit.ended = time.time()
    return keys


def deliver(ledger, key, channel="orders", routes=("callback", "task")):
    """Enter a notification's deliveries."""
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


def test_all_delivered_is_no_offence(ledger):
    """Notifications that all come once, in order and by both routes, are found to be right."""
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
    """One that doesn't come, or by one route only, is lost."""
    (key,) = commit(ledger, "orders")
    deliver(ledger, key, routes=routes)
    ledger.settle(time.time() + 1)
    assert not ledger.offences  # its gap may be reported yet
    ledger.settle()
    assert ledger.offences == {"lost": 1}


def test_a_gap_explains_what_may_have_been_committed_in_it(ledger):
    """A commit that touches a gap is excused; one before, after, or of another channel isn't."""
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
    """What came by a call was heard, and so has to come as a task, gap or not."""
    (key,) = commit(ledger, "orders")
    deliver(ledger, key, routes=["callback"])
    ledger.add_gap(gap(time.time() - 9, time.time() + 9))
    ledger.settle()
    assert ledger.offences == {"lost": 1}


def test_a_doubled_one_is_noticed(ledger):
    """A second call is an offence, and so is a second task; the same task once more is not."""
    (key,) = commit(ledger, "orders")
    deliver(ledger, key)
    ledger.deliver("task", key, "orders", f"id of {key}")
    assert not ledger.offences
    assert ledger.totals.again == 1
    ledger.deliver("callback", key, "orders")
    ledger.deliver("task", key, "orders", "another")
    assert ledger.offences == {"doubled": 2}


def test_one_that_comes_once_more_much_later_is_noticed(ledger):
    """What the books have forgotten can't come unnoticed."""
    (key,) = commit(ledger, "orders")
    deliver(ledger, key)
    ledger.settle(time.time() + 1)
    ledger.deliver("callback", key, "orders")
    assert ledger.offences == {"unknown": 1}


def test_disorder_of_one_sender_is_noticed(ledger):
    """Of one sender's notifications on one channel an earlier one mustn't come later."""
    first, other, second = commit(ledger, "orders", "payments", "orders")
    deliver(ledger, second)
    deliver(ledger, other, "payments")
    assert not ledger.offences
    deliver(ledger, first, routes=["task"])
    assert ledger.offences == {"disordered": 1}


def test_disorder_of_two_senders_is_noticed(ledger):
    """What was committed before another transaction began mustn't come after that one."""
    (first,) = commit(ledger, "orders", sender=1)
    (overlapping,) = commit(ledger, "orders", sender=2, ended=False)
    (second,) = commit(ledger, "orders", sender=3)
    for key in (second, overlapping):
        deliver(ledger, key)
    assert not ledger.offences
    deliver(ledger, first, routes=["callback"])
    assert ledger.offences == {"disordered": 1}


def test_an_unknown_outcome_excuses_absence_alone(ledger):
    """What was perhaps committed may come or not, but not by one route only."""
    _, came, half = (commit(ledger, "orders", ended=False)[0] for _ in range(3))
    deliver(ledger, came)
    deliver(ledger, half, routes=["callback"])
    ledger.settle()
    assert ledger.totals.perhaps == 1
    assert ledger.offences == {"lost": 1}


def test_deliveries_of_removed_channels_are_noticed(ledger):
    """What is sent to a channel without subscriptions is not to come, and isn't missed."""
    ledger.mark_removed("orders", removed=True)
    first, _ = commit(ledger, "orders", "orders", expected=False)
    deliver(ledger, first)
    assert ledger.offences == {"unwanted": 1}
    ledger.mark_removed("orders", removed=False)
    ledger.settle()
    assert ledger.offences == {"unwanted": 1}


def test_misrouted_and_bad_gaps_are_noticed(ledger):
    """A delivery from another channel, and gaps that say nothing, are offences."""
    (key,) = commit(ledger, "orders")
    ledger.deliver("callback", key, "payments")
    now = time.time()
    ledger.add_gap(gap(now, now - 1))
    ledger.add_gap(Gap(datetime.now(), datetime.now(), frozenset("a"), "x"))  # noqa: DTZ005
    assert ledger.offences == {"misrouted": 1, "bad gap": 2}


def test_time_in_gaps_is_counted_once(ledger):
    """Gaps that overlap count as the stretch that they cover together."""
    for since, until in ((10, 14), (11, 12), (13, 16), (20, 21)):
        ledger.add_gap(gap(since, until))
    assert ledger.disconnected() == 7


def test_a_grown_process_is_noticed(soaking, ledger):
    """More memory, threads or descriptors than a little more are offences."""
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
    """Yield the address of a server that sends back what it gets."""
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
    """Yield a proxy in front of it."""
    from soaking.proxy import FaultyProxy

    with FaultyProxy(echo) as proxy:
        yield proxy


def connect(proxy):
    """Return a connection on which something has passed."""
    one = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    assert ask(one, b"hello") == b"hello"
    return one


def ask(one, data):
    """Send, and return as much as was sent."""
    one.sendall(data)
    answer = b""
    while len(answer) < len(data):
        if not (more := one.recv(65536)):
            break
        answer += more
    return answer


def test_the_proxy_delays_and_throttles(proxy):
    """What is delayed takes that long each way; what is throttled as long as its length asks."""
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
    """A connection that lost bytes never gets an answer again; a new one does."""
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
    """A cut ends connections in order, a reset with RST; new ones can be made."""
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
    """A client whose server isn't there is disconnected."""
    from soaking.proxy import FaultyProxy

    with (
        FaultyProxy(tmp_path / "none") as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as one,
        contextlib.suppress(ConnectionResetError),
    ):
        assert one.recv(1) == b""


# --- the listener's process ---


def test_a_gap_survives_the_pipe(soaking):
    """A gap is the same after it was written and read."""
    from soaking.process import parse_gap

    one = gap(1000.25, 1001.5, "orders", "ümläut")
    assert parse_gap(json.loads(json.dumps(one.to_dict()))) == one
