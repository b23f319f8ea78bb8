"""The Celery app of `durable_latency.py`: two subscriptions, one of which is durable.

Run as a script, it is the listener.
"""

import os
import threading
import time
from typing import Any

from celery import Celery
from children import end_with_parent, write_message
from durable_queues import LATENCY_CHANNELS as CHANNELS
from names import OURS, PLAIN

from pgnotifier import Notifier
from pgnotifier.contrib.celery import CeleryDispatcher

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
notifier = Notifier(os.environ["BENCH_DSN"], dispatcher=CeleryDispatcher(app))
output = os.open(os.environ["BENCH_OUTPUT"], os.O_WRONLY | os.O_APPEND)


@notifier.on(CHANNELS[OURS], id="durable", durable=True)
@notifier.on(CHANNELS[PLAIN], id="plain")
def note(_id: object, _channel: str, payload: Any, _pid: int) -> None:
    """Write one line: the number, and when the task has begun."""
    # time.monotonic() is the machine's clock, which is the same in every process.
    os.write(output, f"{payload} {time.monotonic():.6f}\n".encode())


def main() -> None:
    end_with_parent()
    notifier.start()
    write_message("ready")
    threading.Event().wait()


if __name__ == "__main__":
    import durable_app  # as the worker imports it, which gives its task the same name

    durable_app.main()
