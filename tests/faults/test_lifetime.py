"""Scripts stay alive while a notifier runs, and end within a second of Ctrl-C."""

import os
import signal

import pytest

from .load import Sender
from .scripts import LATE_THREADS_ARE_REFUSED, ends_within_a_second
from .waiting import eventually

SUBSCRIBE = """
import sys, time
from pgnotifier import Notifier
n = Notifier(sys.argv[1])
def callback(id, channel, payload, pid):
    pass  # BODY
    print("got", payload)
n.subscribe(1, "orders", callback)
print("subscribed")
"""

MUST_SHOW = """
import sys
from psycopg.conninfo import conninfo_to_dict
from pgnotifier import Notifier

conf = conninfo_to_dict(sys.argv[1])

def do_complex_thing(id, channel, payload, pid):
    print("complex", id, channel, payload)

n = Notifier(conf)
n.add_channels(['my_app_name', 'ch3'])
n.subscribe(42, 'ch1', lambda id, channel, payload, pid: print(id, channel, payload, type(pid)))
n.subscribe('an_id', 'ch2', lambda *_: print("ignored"))
n.subscribe((2, 'another_id'), 'ch2', do_complex_thing)
"""


def test_issue_script(pgnotifier_dsn, sessions, run_script):
    """The issue's script works unchanged, keeps running, and ends on Ctrl-C."""
    script = run_script(MUST_SHOW, pgnotifier_dsn)
    payload = '{"topic": "abc", "data": "some data", "something": "else"}'

    def both_delivered():
        sessions.notify("ch1", payload)
        sessions.notify("ch2", "[1, 2]")
        return "42 ch1" in script.out and "complex" in script.out

    eventually(both_delivered)
    shown = "42 ch1 {'topic': 'abc', 'data': 'some data', 'something': 'else'} <class 'int'>"
    assert shown in script.out
    assert "ignored\ncomplex (2, 'another_id') ch2 [1, 2]\n" in script.out
    assert script.interrupt() == 0
    assert script.err == ""


@pytest.mark.gate
@pytest.mark.alone
def test_first_notification_after_main(pgnotifier_dsn, sessions, run_script):
    """The first notification after the main program's end is delivered; Ctrl-C ends cleanly."""

    def start():
        script = run_script(SUBSCRIBE, pgnotifier_dsn)
        script.prints("subscribed")
        for number in range(3):
            sessions.notify("orders", number)
            script.prints(f"got {number}")
        assert script.runs
        return script

    assert ends_within_a_second(start)
    eventually(lambda: sessions.pids() == [])


def test_reconnects_after_main(pgnotifier_dsn, sessions, run_script):
    """After the main program's end, a notifier reconnects, reports the gap, and can subscribe."""
    source = """
import sys
from pgnotifier import Notifier
n = Notifier(sys.argv[1], on_gap=lambda gap: print("gap", *gap.channels))
def more(id, channel, payload, pid):
    n.subscribe(2, "more", lambda *args: print("more", args[2]))
    print("added")
n.subscribe(1, "orders", more)
print("subscribed")
"""
    script = run_script(source, pgnotifier_dsn)
    script.prints("subscribed")
    eventually(lambda: sessions.terminate())
    script.prints("gap orders")
    sessions.notify("orders")
    script.prints("added")
    sessions.notify("more", 7)
    script.prints("more 7")
    assert script.interrupt() == 0
    assert "Traceback" not in script.err


@pytest.mark.gate
@pytest.mark.alone
def test_interrupted_while_reconnecting(pgnotifier_private_postgres, run_script):
    """Ctrl-C during an outage ends the process within a second, without a traceback."""

    def start():
        pgnotifier_private_postgres.start()
        script = run_script(SUBSCRIBE, pgnotifier_private_postgres.dsn)
        script.prints("subscribed")
        pgnotifier_private_postgres.stop("immediate")
        eventually(lambda: "lost the connection" in script.err)
        return script

    assert ends_within_a_second(start)


@pytest.mark.gate
@pytest.mark.alone
def test_interrupted_while_callbacks_block(pgnotifier_dsn, sessions, run_script):
    """Ctrl-C ends the process within a second although the callbacks of three notifiers block."""
    source = """
import sys, time
from pgnotifier import Notifier
def block(*_):
    print("blocking")
    time.sleep(60)
for number in range(3):
    Notifier(sys.argv[1], on_gap=block).subscribe(number, "orders", block)
print("subscribed")
"""

    def start():
        script = run_script(source, pgnotifier_dsn)
        script.prints("subscribed")
        sessions.notify("orders")
        eventually(lambda: script.out.count("blocking") == 3)
        sessions.terminate()
        eventually(lambda: script.out.count("blocking") == 6)
        return script

    assert ends_within_a_second(start)


def test_interrupted_under_load(pgnotifier_dsn, run_script):
    """Ctrl-C while callbacks print a stream of notifications ends with exit code 0, every time."""
    with Sender(pgnotifier_dsn, ["orders"], rate=2000):
        for _ in range(3):
            script = run_script(SUBSCRIBE.replace("pass", "time.sleep(.001)"), pgnotifier_dsn)
            eventually(lambda script=script: script.out.count("got") > 20)
            assert script.interrupt() == 0
            assert "Traceback" not in script.err
            assert "Fatal" not in script.err


def test_daemon(pgnotifier_dsn, sessions, run_script):
    """A daemon notifier lets the process end by itself, even in the middle of a callback."""
    source = SUBSCRIBE.replace("argv[1]", "argv[1], daemon=True").replace("pass", "time.sleep(60)")
    source += "n.notify('orders')\nwhile not n.status().received: pass\n"
    script = run_script(source, pgnotifier_dsn)
    assert script.wait(30) == 0
    assert "Traceback" not in script.err


@pytest.mark.parametrize("end", ["1 / 0", "import nowhere"])
def test_main_raises(pgnotifier_dsn, run_script, end):
    """A main program that raises shows its own traceback only, and exits with 1 at once."""
    script = run_script(SUBSCRIBE + end, pgnotifier_dsn)
    assert script.wait(30) == 1
    assert script.err.count("Traceback") == 1
    assert script.err.splitlines()[-1].startswith(("ZeroDivisionError", "ModuleNotFoundError"))


def test_main_is_interrupted(pgnotifier_dsn, run_script):
    """Ctrl-C while the main program sleeps ends the process, with a single traceback."""
    script = run_script(SUBSCRIBE + "time.sleep(60)", pgnotifier_dsn)
    script.prints("subscribed")
    assert script.interrupt() == -signal.SIGINT
    assert script.err.count("Traceback") == 1
    assert script.err.splitlines()[-1] == "KeyboardInterrupt"


def test_main_waits(pgnotifier_dsn, run_script):
    """A main program may call `wait()`, and catch Ctrl-C itself."""
    source = (
        SUBSCRIBE
        + """
try:
    n.wait()
except KeyboardInterrupt:
    n.stop()
print("caught", n.wait())
"""
    )
    script = run_script(source, pgnotifier_dsn)
    script.prints("subscribed")
    assert script.interrupt() == 0
    assert script.out.endswith("caught True\n")
    assert script.err == ""


def test_sigterm_handler(pgnotifier_dsn, run_script):
    """After a signal handler has called `stop()`, the process ends."""
    source = (
        SUBSCRIBE
        + """
import signal
signal.signal(signal.SIGTERM, lambda *_: n.stop())
print("handled")
"""
    )
    script = run_script(source, pgnotifier_dsn)
    script.prints("handled")
    os.kill(script.pid, signal.SIGTERM)
    assert script.wait(3) == 0
    assert script.err == ""


def test_main_exits_by_sys_exit(pgnotifier_dsn, sessions, run_script):
    """After `sys.exit()` in the main program, the notifier keeps running."""
    script = run_script(SUBSCRIBE + "sys.exit(0)", pgnotifier_dsn)
    script.prints("subscribed")
    sessions.notify("orders", 1)
    script.prints("got 1")
    assert script.interrupt() == 0
    assert script.err == ""


def test_callback_exits(pgnotifier_dsn, sessions, run_script):
    """`sys.exit()` in a callback is reported, and stops neither the process nor the listener."""
    source = SUBSCRIBE.replace("pass", "payload or sys.exit(3)")
    script = run_script(source, pgnotifier_dsn)
    script.prints("subscribed")
    sessions.notify("orders", "0")
    eventually(lambda: "SystemExit" in script.err)
    sessions.notify("orders", "1")
    script.prints("got 1")
    assert script.interrupt() == 0


def test_callback_stops_the_notifier(pgnotifier_dsn, sessions, run_script):
    """If a callback stops the last notifier, the process ends after everything is delivered."""
    source = """
import sys, time
from pgnotifier import Notifier
n = Notifier(sys.argv[1])
def callback(id, channel, payload, pid):
    if payload == 1:
        n.stop()
        time.sleep(0.5)
    print("done", payload)
n.subscribe(1, "orders", callback)
print("subscribed")
"""
    script = run_script(source, pgnotifier_dsn)
    script.prints("subscribed")
    sessions.execute("SELECT pg_notify('orders', g::text) FROM generate_series(1, 3) g")
    assert script.wait(30) == 0
    assert script.out == "subscribed\ndone 1\ndone 2\ndone 3\n"
    assert script.err == ""


EXECUTORS = {
    "imported before": "from concurrent.futures import ThreadPoolExecutor\nIMPORT\nLATE = 0",
    "imported after": "IMPORT\nfrom concurrent.futures import ThreadPoolExecutor\nLATE = 0",
    "imported by the callback": "IMPORT\nLATE = 1",
}


@pytest.mark.parametrize("imports", EXECUTORS.values(), ids=list(EXECUTORS))
def test_executor_in_callback(pgnotifier_dsn, sessions, run_script, imports):
    """Callbacks may use executors after the main program's end, whenever these were imported."""
    source = (
        imports.replace("IMPORT", "import sys\nfrom pgnotifier import Notifier")
        + """
def callback(id, channel, payload, pid):
    if LATE:
        from concurrent.futures import ThreadPoolExecutor as Pool
        global pool
        pool = pool or Pool(2)
    print("sum", pool.submit(sum, payload).result())
pool = None if LATE else ThreadPoolExecutor(2)
if pool:
    pool.submit(print).result()
n = Notifier(sys.argv[1])
n.subscribe(1, "orders", callback)
print("subscribed")
"""
    )
    if LATE_THREADS_ARE_REFUSED:
        source = source.replace(
            "pool.submit(print)", "[pool.submit(__import__('time').sleep, .1) for _ in '12'][0]"
        )
        if "LATE = 1" in imports:
            pytest.skip("Python 3.12.0 and 3.12.1 start no thread once the main program has ended")
    script = run_script(source, pgnotifier_dsn)
    script.prints("subscribed")
    for number in range(3):
        sessions.notify("orders", f"[1, {number}]")
        script.prints(f"sum {1 + number}")
    assert script.interrupt() == 0
    assert script.err == ""
