"""The Celery app of `outbox_latency.py`. Run as a script, it is the relay."""

import os
import threading
import time
from pathlib import Path

from celery import Celery
from children import end_with_parent, write_message

from pgnotifier import Notifier
from pgnotifier.contrib.celery import CeleryOutbox

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
outbox = CeleryOutbox(app)


@app.task(name="bench.note", ignore_result=True)
def note(number: int) -> None:
    """Write one line: the number, and when the task has begun."""
    # time.monotonic() is the machine's clock, which is the same in every process.
    with Path(os.environ["BENCH_OUTPUT"]).open("a") as output:
        output.write(f"{number} {time.monotonic():.6f}\n")


def main() -> None:
    """Relay until the parent ends."""
    end_with_parent()
    notifier = Notifier(os.environ["BENCH_DSN"])
    outbox.relay_to(notifier)
    notifier.start()
    write_message("ready")
    threading.Event().wait()


if __name__ == "__main__":
    main()
