"""Locks are free in a forked child, whoever held them in the parent."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import os, signal, threading
from celery import Celery
from pgnotifier.contrib.celery import CeleryNotifier, shared_subscription

app = Celery("shop", broker="memory://")
app.conf.pgnotifier_dsn = "dbname=nowhere"
notifier = CeleryNotifier(app)
app.finalize()
number = 0

def subscribe():
    global number
    number += 1
    shared_subscription("orders", id=f"id {number % 50}")(print)
    notifier.subscribe(f"own {number % 50}", "orders", print)
    notifier.unsubscribe(f"own {number % 50}", "orders")

def busy():
    while True:
        subscribe()

for _ in range(2):
    threading.Thread(target=busy, daemon=True).start()
ended = []
for _ in range(25):
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        number = 7
        subscribe()
        os._exit(0)
    ended.append(os.waitpid(pid, 0)[1])
print("hung", sum(status != 0 for status in ended))
os._exit(0)
"""

HELD = """
import os, signal, threading
from pgnotifier import Notifier, ThreadDispatcher
from pgnotifier.contrib.celery import configured
from django.conf import settings
settings.configure()
from pgnotifier.contrib.django import notifiers as django
from pgnotifier.contrib.celery.tasks import AppTasks
from celery import Celery

app = Celery("shop", broker="memory://")
threaded = ThreadDispatcher()
notifier = Notifier("", dispatcher=threaded)
def find_locks():
    return [
        configured._lock, django._lock, AppTasks.of(app)._lock, notifier._lifecycle.lock,
        threaded._lanes._lock
    ]
for number, lock in enumerate(find_locks()):
    held, free = threading.Event(), threading.Event()
    def hold():
        with lock:
            held.set()
            free.wait()
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        find_locks()[number].__enter__()
        os._exit(0)
    print(os.waitpid(pid, 0)[1])
    free.set()
os._exit(0)
"""


def run(source):
    """Run a script, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-u", "-c", source], capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_children_of_busy_threads_subscribe():
    """A child can subscribe, even if it was forked while other threads subscribed."""
    assert run(SCRIPT) == ["hung", "0"]


def test_a_lock_held_at_fork_is_free_in_the_child():
    """Locks of modules, apps, notifiers and idle dispatchers are free in a child."""
    assert run(HELD) == ["0"] * 5
