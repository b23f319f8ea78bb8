"""Run all benchmarks, and print one table: `python benchmarks/run.py`, or `make bench`."""

import broker
import cpu
import django_signals
import durable_broker
import durable_held
import durable_latency
import durable_publishing
import durable_subscriptions
import durable_volume
import growth
import inline
import jobs
import latency
import memory
import observing
import onlookers
import outbox
import outbox_enqueue
import outbox_latency
import queues
import rabbitmq
import row_triggers
import rq_outbox
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
                observing,
                onlookers,
                latency,
                growth,
                memory,
                durable_publishing,
                durable_broker,
                durable_latency,
                durable_subscriptions,
                durable_held,
                durable_volume,
                outbox,
                outbox_enqueue,
                outbox_latency,
                rq_outbox,
                row_triggers,
            )
        ],
    )
