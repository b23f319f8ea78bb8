"""Listeners, brokers and workers as processes, some of which are killed or restarted."""

import itertools
import threading
import time

import pytest
from local import wait_for_callable
from pytest_celery import RabbitMQTestBroker

VISIBILITY_TIMEOUT = 2.0  # as in the application

ODD = {
    "{'a': (1, {2})}": {"a": (1, {2})},
    '{"a": [1, 2.5, null, true]}': {"a": [1, 2.5, None, True]},
    "{1: b'\\x00', (2,): ...}": {1: b"\x00", (2,): ...},
    "(1, 2)": (1, 2),
    str(2**200): 2**200,
    "": "",
    "not JSON ü ☃": "not JSON ü ☃",
    '{"__type__": "datetime", "__value__": "x"}': {"__type__": "datetime", "__value__": "x"},
    "x" * 7900: "x" * 7900,
}


class Load(threading.Thread):
    """Sends notifications until the end of its `with` block."""

    def __init__(self, application, channel="load"):
        super().__init__(daemon=True)
        self._application = application
        self._channel = channel
        self._done = threading.Event()
        self.sent = 0

    def run(self):
        for first in itertools.count(0, 2):
            if self._done.wait(0.05):
                return
            numbers = range(first, first + 2)
            self._application.notify(*[(self._channel, str(number)) for number in numbers])
            self.sent = first + 2

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()


def all_of(count):
    """Return the numbers of the first `count` notifications of a load."""
    return set(range(count))


def payloads(found):
    """Return the payloads that tasks have written."""
    return [payload for _, payload, *_ in found]


def test_exact_types(celery_setup, application, start_listener):
    """Tasks receive ids that are tuples, and odd payloads, exactly as callbacks in process do."""
    assert celery_setup.ready(ping=True)
    start_listener()
    pid = application.notify(*[("odd", text) for text in ODD])
    found = application.wait_written("odd", len(ODD))
    expected = [("pgnotifier.odd.1", ("odd", 1), "odd", payload, pid) for payload in ODD.values()]
    assert [repr(facts) for _, *facts in found] == [repr(list(facts)) for facts in expected]


@pytest.mark.worker(pool=("-P", "prefork", "-c", "1"))
def test_a_worker_killed_amid_a_task(celery_setup, application, start_listener):
    """With `acks_late`, a task of a killed worker runs again once the worker is restarted."""
    start_listener()
    application.notify(("slow", "1"))
    ((task_id, *_),) = application.wait_written("begun", 1)
    begun_at = time.monotonic()
    celery_setup.worker.kill()
    # Redis' transport considers a task lost after a while only, and checks when a worker starts.
    wait_for_callable("lost", lambda: time.monotonic() > begun_at + 1.5 * VISIBILITY_TIMEOUT)
    celery_setup.worker.restart()
    ((again, payload),) = application.wait_written("slow", 1)
    assert (again, payload) == (task_id, 1)


def test_workers_restarted_under_load(celery_setup, application, start_worker, start_listener):
    """Everything is executed, although one of the two workers is always restarting."""
    second = start_worker()
    start_listener()
    with Load(application) as load:
        for worker in (celery_setup.worker, second) * 2:
            before = len(application.written("load"))
            application.wait_written("load", before + 20)
            worker.restart()
            assert worker.ready()
    found = application.wait_written("load", load.sent)
    assert set(payloads(found)) == all_of(load.sent)


@pytest.mark.breaks_broker
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_the_broker_restarted_under_load(celery_setup, application, start_listener, how):
    """Nothing that was received is lost; what is executed twice has the same task id."""
    listener = start_listener()
    with Load(application) as load:
        application.wait_written("load", 20)
        # Redis' transport removes a message from its list before it notes that a worker has it.
        stays = isinstance(celery_setup.broker, RabbitMQTestBroker)
        if not stays:
            celery_setup.worker.kill("SIGTERM")
        celery_setup.broker.kill(how)
        listener.wait_for_log("can't deliver")
        celery_setup.broker.restart()
        listener.wait_for_log("delivers again")
        if not stays:
            celery_setup.worker.restart()
        application.wait_written("load", 100)
    found = application.wait_written("load", load.sent, timeout=90)
    assert set(payloads(found)) == all_of(load.sent)
    assert len(set(found)) == load.sent


def test_two_queues(celery_setup, application, start_worker, start_listener):
    """Each worker receives what is routed to its queue, and nothing else."""
    low = start_worker(f"{application.queue}-low")
    start_listener()
    application.notify(*[("routed", str(number)) for number in range(50)])
    by_high = application.wait_written("high", 50)
    by_low = application.wait_written("low", 50)
    assert sorted(payloads(by_high)) == sorted(payloads(by_low)) == list(range(50))
    (high_name,) = {name for *_, name in by_high}
    (low_name,) = {name for *_, name in by_low}
    assert high_name in celery_setup.worker.logs()
    assert low_name in low.logs()
    assert high_name != low_name


def test_a_standby_takes_over(celery_setup, application, start_listener):
    """Once a standby has taken over from a killed leader, nothing is lost or enqueued twice."""
    leader, standby = start_listener("--standby"), start_listener("--standby")
    assert "standby as" in standby.logs()
    application.notify(*[("load", str(number)) for number in range(50)])
    application.wait_written("load", 50)
    leader.kill()
    standby.wait_for_log("took over")
    application.notify(*[("load", str(number)) for number in range(50, 100)])
    found = application.wait_written("load", 100)
    assert sorted(payloads(found)) == list(range(100))


def test_sigterm_drains(celery_setup, application, start_listener):
    """On SIGTERM, a listener first hands the thousands that it has received to the broker."""
    listener = start_listener()
    celery_setup.worker.kill("SIGTERM")
    application.notify(*[("load", str(number)) for number in range(3000)])
    application.notify(("odd", "the last"))
    wait_for_callable("received", lambda: application.waiting_in_broker() > 0)
    listener.kill("SIGTERM")
    assert "everything received was delivered" in listener.logs()
    assert application.waiting_in_broker() == 3001
