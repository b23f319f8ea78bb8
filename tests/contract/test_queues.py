"""The contract of the dispatchers to queues, with real workers and a real broker."""

import itertools
import re
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import dramatiq
import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging
from dramatiq.brokers.redis import RedisBroker
from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from pgnotifier.contrib.celery import CeleryDispatcher
from pgnotifier.contrib.rq import RQDispatcher
from pgnotifier.testing.contract import QueueDispatcherContract

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-dispatcher.md"


def _leave_as_it_is(**_):
    """Handle the signal, so that the worker doesn't set up logging in the tests' process."""


class _OnValkey(QueueDispatcherContract):
    @pytest.fixture(autouse=True)
    def broker(self, broker_url, away):
        """Provide the broker's URL, and the context manager that stops it."""
        self.url = broker_url
        self.outage = away


class TestRQDispatcher(_OnValkey):
    """Notifications become jobs, which an RQ worker runs."""

    serializer = None
    many = 100

    @pytest.fixture
    def dispatcher(self, broker):
        with Redis.from_url(self.url) as connection:
            self.queue = Queue(connection=connection, serializer=self.serializer)
            yield RQDispatcher(self.queue)

    def work(self):
        class Worker(SimpleWorker):
            death_penalty_class = TimerDeathPenalty  # needs no signals

        worker = Worker([self.queue], connection=self.queue.connection, serializer=self.serializer)
        worker.work(burst=True)


@pytest.mark.gate  # what is pickled, above, passes the same contract in every run
class TestRQDispatcherWithJSON(TestRQDispatcher):
    """The same, with a serializer other than pickle."""

    serializer = JSONSerializer


class TestCeleryDispatcher(_OnValkey):
    """Notifications become tasks, which a Celery worker runs."""

    running = False

    @pytest.fixture
    def dispatcher(self, broker):
        self.app = app = Celery("contract", broker=self.url, set_as_current=False)
        app.conf.broker_connection_retry_on_startup = True
        app.conf.worker_cancel_long_running_tasks_on_connection_loss = True
        self.workers = ExitStack()
        setup_logging.connect(_leave_as_it_is)
        try:
            with app, self.workers:
                yield CeleryDispatcher(app)
        finally:
            setup_logging.disconnect(_leave_as_it_is)

    def work(self):
        if not self.running:  # only now are the tasks registered
            self.workers.enter_context(
                start_worker(self.app, perform_ping_check=False, shutdown_timeout=30)
            )
            self.running = True


class TestDramatiqDispatcher(_OnValkey):
    """The guide's dispatcher, executed from the guide's text."""

    names = itertools.count()

    @pytest.fixture
    def guide(self):
        code = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)[0]
        assert len(code.splitlines()) <= 43
        module = {}
        exec(compile(code, "guide.py", "exec"), module)
        return SimpleNamespace(**module)

    @pytest.fixture
    def dispatcher(self, broker, guide):
        self.restore = guide.restore
        self.broker = RedisBroker(url=self.url)
        dramatiq.set_broker(self.broker)
        worker = dramatiq.Worker(self.broker, worker_threads=1, worker_timeout=100)
        worker.start()
        yield guide.DramatiqDispatcher(self.broker)
        worker.stop()
        self.broker.close()

    def adapt(self, fn):
        restore = self.restore

        def act(*arguments):
            fn(*restore(*arguments))

        name = f"{fn.__name__}-{next(self.names)}"
        return dramatiq.actor(act, actor_name=name, broker=self.broker, max_retries=0)
