"""Reports of listeners that don't exist, for screens that show them."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pgnotifier._inquiry.report import (
    ChannelReport,
    DispatcherReport,
    ListenerReport,
    SubscriptionReport,
    Survey,
)
from pgnotifier.status import Delay, DurableStatus, Latency

QUEUES = ("default", "images", "mail", "reports")


def make_channel(name, received=0, *, muted=False, durable=False, rate=0.0):
    """Return the report of a channel."""
    return ChannelReport(name, received, muted, durable, rate)


def make_subscription(id, channel, target="shop.tasks.work", queue="default", *, muted=False):
    """Return the report of a subscription."""
    return SubscriptionReport(id, channel, target, queue, "CeleryDispatcher", muted, durable=False)


def make_report(channels=(), subscriptions=(), **changes):
    """Return the report of a leader."""
    now = datetime.now(UTC)
    since = now - timedelta(hours=4, minutes=7)
    delay = Delay(0.0012, 0.0034, 0.0088, 0.021, 840)
    dispatcher = DispatcherReport(
        "CeleryDispatcher", 12, 10_000, 1_254_377, 0, full=False, retrying=False, since=None,
        why=None, delay=delay, rate=1249.5,
    )  # fmt: skip
    durable = DurableStatus(
        "invoice", "orders", 4711, 42, 1.5, 80.0, 0, 0, 0, None, None, None
    )  # fmt: skip
    report = ListenerReport(
        id="0123456789abcdef", host="web-1", pid=4711, backend_pid=5001, version="0.1.0",
        python="3.13.1", kind="celery", app="shop", command="celery", standby="shop",
        started_at=since, uptime=14_820.0, measured_at=now, state="listening", since=since,
        why=None, connection="host=db.shop.example dbname=shop user=listener", received=1_254_389,
        errors=0, dropped=0, reconnects=0, latency=Latency(0.0004, 0.0005, 0.003, 900),
        queue_usage=0.0, gaps=0, last_gaps=(), channel_count=len(channels),
        channels=tuple(channels),
        subscription_count=len(subscriptions), subscriptions=tuple(subscriptions),
        dispatchers=(dispatcher,), durable=(durable,), log=None, takes_orders=True, rate=1250.0,
    )  # fmt: skip
    return replace(report, **changes)


def make_standby(leader):
    """Return the report of a standby of a leader."""
    return replace(
        leader, id="fedcba9876543210", host="web-2", pid=4713, backend_pid=5002, state="standby",
        rate=0.0, received=0, dispatchers=(), durable=(), latency=None,
        channels=tuple(replace(one, received=0, rate=0.0) for one in leader.channels),
    )  # fmt: skip


def make_survey(channels=200, each=5, moment=0):
    """Return the survey of a leader and a standby with many channels and subscriptions."""
    names = [f"shop.{table}.{number:03}" for number in range((channels + 3) // 4)
             for table in ("orders", "images", "mail", "stock")][:channels]  # fmt: skip
    wave = 40 + 25 * math.sin(moment / 5) + moment * 7 % 11
    busy = [wave * 12 / (place * 7 % channels + 1) * (1 + moment * place % 7 / 20)
            for place in range(channels)]  # fmt: skip
    reports = [
        make_channel(name, 1000 + 2 * moment * (place + 1), rate=busy[place])
        for place, name in enumerate(names)
    ]
    subscriptions = [
        make_subscription(f"{verb}-{name}", name, f"shop.tasks.{verb}", QUEUES[n % len(QUEUES)])
        for name in names
        for n, verb in enumerate(("index", "resize", "mail", "count", "audit")[:each])
    ]
    leader = make_report(reports, subscriptions, rate=sum(busy))
    (dispatcher,) = leader.dispatchers
    later = sum(busy) * (1 - moment % 5 / 50)
    leader = replace(leader, dispatchers=(replace(dispatcher, rate=later),))
    return Survey((leader, make_standby(leader)))
