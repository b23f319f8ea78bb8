"""The contract of the dispatchers that call callbacks in this process."""

import asyncio
import threading

import pytest

from pgnotifier import AsyncioDispatcher, InlineDispatcher, ThreadDispatcher
from pgnotifier.testing.contract import DispatcherContract


class TestInlineDispatcher(DispatcherContract):
    """Callbacks run one after the other, in the deliverer's thread."""

    @pytest.fixture
    def dispatcher(self):
        return InlineDispatcher()


class TestThreadDispatcher(DispatcherContract):
    """Callbacks run in several threads, in order for each subscription."""

    @pytest.fixture
    def dispatcher(self):
        return ThreadDispatcher(4)


class TestUnorderedThreads(DispatcherContract):
    """Callbacks run in several threads, in any order; few deliveries may wait."""

    ordered = False

    @pytest.fixture
    def dispatcher(self):
        return ThreadDispatcher(4, ordered=False, max_pending=3)


class _OnALoop(DispatcherContract):
    @pytest.fixture
    def loop(self):
        """Yield an event loop that runs in a thread."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        yield loop
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def adapt(self, fn):
        async def callback(*args):
            await asyncio.sleep(0)
            fn(*args)

        return callback


class TestAsyncioDispatcher(_OnALoop):
    """Callbacks are awaited on an event loop, in order for each subscription."""

    @pytest.fixture
    def dispatcher(self, loop):
        return AsyncioDispatcher(loop)


class TestUnorderedTasks(_OnALoop):
    """Callbacks are awaited on an event loop, in any order; few deliveries may wait."""

    ordered = False

    @pytest.fixture
    def dispatcher(self, loop):
        return AsyncioDispatcher(loop, ordered=False, max_tasks=5, max_pending=7)
