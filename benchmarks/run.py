"""Run all benchmarks, and print one table: `python benchmarks/run.py`, or `make bench`."""

import broker
import cpu
import django_signals
import growth
import inline
import jobs
import latency
import memory
import queues
import rabbitmq
import tracing
from commandline import run

if __name__ == "__main__":
    run(
        __doc__,
        [
            one.benchmark
            for one in (
                inline,
                cpu,
                django_signals,
                broker,
                rabbitmq,
                jobs,
                queues,
                tracing,
                latency,
                growth,
                memory,
            )
        ],
    )
