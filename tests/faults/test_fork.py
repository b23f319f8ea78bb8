"""Forks after `start()`: a child receives nothing, and the parent's connections are unharmed."""

import os
import signal
from pathlib import Path

import pytest

from .load import Sender
from .scripts import LATE_THREADS_ARE_REFUSED
from .waiting import eventually

QUIET = ("-W", "ignore::DeprecationWarning")  # Python 3.12 warns about forks with threads

PARENT = """
import multiprocessing, os, signal, sys, threading, time
from pgnotifier import Notifier

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

n = Notifier(sys.argv[1])

def callback(id, channel, payload, pid):
    say("got", os.getpid(), payload)

if __name__ == "__main__":
    n.subscribe(1, "orders", callback)
    n.notify("nowhere", 0)  # its connection is one to be forked, too
    say("parent", os.getpid())
"""


def lines(script, word):
    """Return the lines that begin with a word, without it."""
    found = [line.split() for line in script.out.splitlines()]
    return [tuple(line[1:]) for line in found if line and line[0] == word]


def check_deliveries(script, sender):
    """Check that only the parent received notifications: all of them, once and in order."""
    sender.stop()
    last = str(len(sender.sent) - 1)
    eventually(lambda: (got := lines(script, "got")) and got[-1][1] == last)
    got = lines(script, "got")
    assert {pid for pid, _ in got} == {str(script.pid)}
    numbers = [int(number) for _, number in got]
    assert numbers == list(range(numbers[0], len(sender.sent)))


ENDS = {
    "os._exit": "os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "end of script": "ending = True",
    "exception": "1 / 0",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_children_under_load(pgnotifier_dsn, sessions, run_script, end):
    """Children receive nothing, and the parent's connections survive however the children end."""
    source = (
        PARENT
        + f"""
ending = False
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        say("child", n.is_running(), n.status().state)
        time.sleep(0.1)
        {end}
        break
    time.sleep(0.02)
if not ending and pid:
    for _ in range(5):
        say("code", os.waitstatus_to_exitcode(os.wait()[1]))
    n.notify("nowhere", 1)
    say("reconnects", n.status().reconnects, n.status().state)
"""
    )
    script = run_script(source, pgnotifier_dsn, flags=QUIET)
    script.prints("parent")
    before = set(sessions.pids())
    assert len(before) == 2
    with Sender(pgnotifier_dsn, ["orders"], rate=300) as sender:
        script.prints("reconnects 0 listening")
        sender.wait_for(20)
        check_deliveries(script, sender)
    assert set(sessions.pids()) == before
    assert lines(script, "child") == [("False", "stopped")] * 5
    assert {code for (code,) in lines(script, "code")} == {"1" if "/" in end else "0"}
    assert script.interrupt() == 0
    assert "ResourceWarning" not in script.err
    assert script.err.count("Traceback") == (5 if "/" in end else 0)


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_multiprocessing(pgnotifier_dsn, run_script, context):
    """`multiprocessing` workers, with any start method, receive nothing and can send."""
    source = (
        PARENT
        + f"""
def work(number):
    say("worker", n.is_running())
    n.notify("orders", 10_000 + number)

if __name__ == "__main__":
    context = multiprocessing.get_context("{context}")
    workers = [context.Process(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        say("code", worker.exitcode)
    say("reconnects", n.status().reconnects)
"""
    )
    script = run_script(source, pgnotifier_dsn, flags=QUIET)
    script.prints("reconnects 0")
    assert lines(script, "code") == [("0",)] * 3
    assert lines(script, "worker") == [("False",)] * 3
    eventually(lambda: len(lines(script, "got")) == 3)
    numbers = sorted(lines(script, "got"))
    assert numbers == [(str(script.pid), str(10_000 + number)) for number in range(3)]
    assert script.interrupt() == 0
    assert script.err == ""


def test_child_listens_for_itself(pgnotifier_dsn, sessions, run_script):
    """A child may start its own listener, and stopping it leaves the parent's alone."""
    source = (
        PARENT
        + """
if os.fork() == 0:
    n.start()
    n.notify("orders", "ours")
    n.add_channel("stop it")
    say("child listens")
    n.subscribe("end", "stop it", lambda *_: n.stop())
else:
    say("child's code", os.wait()[1])
"""
    )
    script = run_script(source, pgnotifier_dsn, flags=QUIET)
    script.prints("child listens")
    eventually(lambda: len(lines(script, "got")) == 2)
    assert len({pid for pid, payload in lines(script, "got") if payload == "ours"}) == 2
    eventually(lambda: sessions.notify("stop it") or "child's code 0" in script.out)
    sessions.notify("orders", "after")
    eventually(lambda: (str(script.pid), "after") in lines(script, "got"))
    assert len(lines(script, "got")) == 3
    assert script.interrupt() == 0
    assert script.err == ""


def test_parent_dies(pgnotifier_dsn, sessions, run_script):
    """A killed parent's sessions end although a child lives on: the child holds no socket."""
    source = (
        PARENT
        + """
if os.fork() == 0:
    n.is_running()
    say("child", os.getpid())
    time.sleep(60)
os.wait()
"""
    )
    script = run_script(source, pgnotifier_dsn, flags=QUIET)
    script.prints("child")
    assert len(sessions.pids()) == 2
    os.kill(script.pid, signal.SIGKILL)
    script.wait()
    eventually(lambda: sessions.pids() == [])
    ((child,),) = lines(script, "child")
    os.kill(int(child), 0)  # it is still running


def test_fork_among_busy_threads(pgnotifier_dsn, run_script):
    """A child can use the notifier at once, whatever other threads do with it during the fork."""
    source = (
        PARENT
        + """
def keep_busy(number):
    while not ending.is_set():
        n.subscribe(number, f"busy {number}", print)
        n.notify(f"nowhere {number}", number)
        n.status()
        n.mute_subscriber(number)
        n.unsubscribe(number, f"busy {number}")

ending = threading.Event()
threads = [threading.Thread(target=keep_busy, args=(number,)) for number in range(6)]
for thread in threads:
    thread.start()
children = []
for number in range(25):
    if (pid := os.fork()) == 0:
        signal.alarm(20)  # a child that hangs is killed by it
        n.mute_channels()
        n.subscribe("mine", "mine", callback)
        n.notify("mine", number)
        n.stop()
        os._exit(0)
    children.append(pid)
    time.sleep(0.01)
for pid in children:
    say("code", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
ending.set()
for thread in threads:
    thread.join()
say("reconnects", n.status().reconnects)
"""
    )
    script = run_script(source, pgnotifier_dsn, flags=QUIET)
    script.prints("reconnects", timeout=40)
    assert lines(script, "reconnects") == [("0",)]
    assert lines(script, "code") == [("0",)] * 25
    assert script.interrupt() == 0
    assert script.err == ""


FORKING = """
def forking(id, channel, payload, pid):
    if payload % 10 == 0 and os.fork() == 0:
        say("child", n.is_running())
        END
    callback(id, channel, payload, pid)
n.subscribe(1, "orders", forking)
say("forking")
"""


@pytest.mark.skipif(
    LATE_THREADS_ARE_REFUSED, reason="Python 3.12.0 and 3.12.1 don't fork at the end of the program"
)
@pytest.mark.parametrize("end", ["os._exit(0)", "return"])
def test_fork_in_a_callback(pgnotifier_dsn, sessions, run_script, end):
    """If a callback forks, the child delivers nothing, even if it returns from the callback."""
    source = PARENT + "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + FORKING
    script = run_script(source.replace("END", end), pgnotifier_dsn, flags=QUIET)
    script.prints("forking")
    sessions.execute("SELECT pg_notify('orders', g::text) FROM generate_series(1, 100) g")
    eventually(lambda: (got := lines(script, "got")) and got[-1] == (str(script.pid), "100"))
    eventually(lambda: lines(script, "child") == [("False",)] * 10)
    tasks = Path(f"/proc/{script.pid}/task")

    def childless():
        # Children are listed with the thread that forked them: here that of the callbacks.
        return not any(children.read_text() for children in tasks.glob("*/children"))

    eventually(childless)
    assert lines(script, "got") == [(str(script.pid), str(n)) for n in range(1, 101)]
    assert script.interrupt() == 0
    assert script.err == ""


IN_A_THREAD = """
from pgnotifier import ThreadDispatcher

dispatcher = ThreadDispatcher(2)

def watch(worker):
    while worker in threading.enumerate():
        time.sleep(0.01)
    say("ended", dispatcher.pending)

def forking(id, channel, payload, pid):
    if payload == 1 and os.fork() == 0:
        threading.Thread(target=watch, args=[threading.current_thread()]).start()
        return
    callback(id, channel, payload, pid)

n.subscribe(1, "orders", forking, dispatcher=dispatcher)
say("forking")
"""


@pytest.mark.skipif(
    LATE_THREADS_ARE_REFUSED, reason="Python 3.12.0 and 3.12.1 don't fork at the end of the program"
)
def test_fork_in_a_thread(pgnotifier_dsn, sessions, run_script):
    """A child that returns from a ThreadDispatcher's callback has nothing pending, and ends."""
    source = PARENT + "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n" + IN_A_THREAD
    script = run_script(source, pgnotifier_dsn, flags=QUIET)
    script.prints("forking")
    sessions.execute("SELECT pg_notify('orders', g::text) FROM generate_series(1, 3) g")
    eventually(lambda: lines(script, "ended"), timeout=30)
    assert lines(script, "ended") == [("0",)]
    eventually(lambda: len(lines(script, "got")) == 3)
    assert lines(script, "got") == [(str(script.pid), str(n)) for n in range(1, 4)]
    assert script.interrupt() == 0
    assert script.err == ""


def test_fork_while_reconnecting(pgnotifier_private_postgres, run_script):
    """Forks during an outage don't keep the parent from reconnecting."""
    source = (
        PARENT
        + """
while n.status().state == "listening":
    pass
children = 0
while n.status().state != "listening":
    if os.fork() == 0:
        os._exit(n.is_running())
    children += 1
    if os.wait()[1]:
        say("wrong")
    if children == 20:
        say("forked")
say("back")
"""
    )
    script = run_script(source, pgnotifier_private_postgres.dsn, flags=QUIET)
    script.prints("parent")
    pgnotifier_private_postgres.stop("immediate")
    script.prints("forked")
    pgnotifier_private_postgres.start()
    script.prints("back")
    assert "wrong" not in script.out
    assert script.interrupt() == 0
    assert "Traceback" not in script.err
