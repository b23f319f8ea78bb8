"""Read tasks from the broker's queue without a worker, and record them."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import redis

from .accounting import Key, Ledger

QUEUE = "celery"
LOT = 1000


class TaskReader:
    """Empties the queue during the `with` block, on a direct connection to the server.

    A task that is taken out while the server is killed would be lost. So `paused` stops the reader
    meanwhile; the tasks that it hasn't taken are in the server's file.
    """

    def __init__(self, url: str, ledger: Ledger) -> None:
        # The client must not retry: it can't know what the first attempt has taken out.
        self._server: Any = redis.Redis.from_url(url, retry=None)
        self._ledger = ledger
        self._turn = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tasks", daemon=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Take no tasks out of the queue meanwhile."""
        with self._turn:
            yield
            self._server.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._server.close()

    def _run(self) -> None:
        while not self._ending.is_set():
            messages: list[bytes] = []
            try:
                with self._turn:
                    messages = self._server.rpop(QUEUE, LOT) or []
                for message in messages:
                    self._enter(json.loads(message))
            except redis.ConnectionError as exc:
                self._ledger.offend("defect", f"the queue can't be read: {exc!r}")
            except Exception as exc:  # noqa: BLE001 - what isn't entered must not go unnoticed
                self._ledger.offend("defect", f"a task can't be entered: {exc!r}")
            self._ending.wait(0.0 if len(messages) == LOT else 0.05)

    def _enter(self, message: dict[str, Any]) -> None:
        (_, channel, payload, _), *_ = json.loads(base64.b64decode(message["body"]))
        self._ledger.deliver("task", Key(*payload), channel, message["headers"]["id"])
