"""The route of a notification is the one that CONTRIBUTING.md describes."""

import re
import threading
from pathlib import Path

import pytest
from celery import Celery

import pgnotifier
from pgnotifier.contrib.celery import CeleryDispatcher

ROOT = Path(pgnotifier.__file__).parents[1]
ROW = re.compile(r"^\| \d+ \| `([\w.]+)` \| `(pgnotifier/[\w/]+\.py)` \|", re.MULTILINE)
HOPS = ROW.findall((ROOT / "CONTRIBUTING.md").read_text())


class Profile:
    """Records the package's functions that are called, in all threads that begin meanwhile."""

    def __init__(self):
        self.calls = []

    def __call__(self, frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(ROOT / "pgnotifier")):
            self.calls.append((code.co_qualname, str(Path(code.co_filename).relative_to(ROOT))))


@pytest.fixture
def profile():
    """Yield a profile of the threads that begin from now on."""
    made, before = Profile(), threading.getprofile()
    threading.setprofile(made)
    yield made
    threading.setprofile(before)


def test_route(profile, pgnotifier_dsn, pgnotifier_redis_url, db, make_notifier, eventually):
    """For a notification, the functions in CONTRIBUTING.md are called in the order listed there."""
    app = Celery("shop", broker=pgnotifier_redis_url, set_as_current=False)
    notifier = make_notifier(pgnotifier_dsn, dispatcher=CeleryDispatcher(app))
    notifier.subscribe("invoice", "orders", lambda *_: None)
    notifier.start()
    for number in range(1, 5):  # the first ones make the stamp, and compare it with Celery's
        profile.calls.clear()
        db.notify("orders", number)
        eventually(lambda n=number: notifier.status().dispatchers[0].delivered == n)
    assert 10 <= len(HOPS) <= 20
    calls = iter(profile.calls.copy())
    for hop in HOPS:
        assert hop in calls, f"{hop} isn't called, or not after the one before it"
