# pyright: reportUnnecessaryTypeIgnoreComment=true
"""What type checkers must refuse: both say so if an ignored error isn't one."""

from typing import Any

import psycopg
from celery import Celery

from pgnotifier import AsyncioDispatcher, Dispatcher, InlineDispatcher, Notifier, ThreadDispatcher
from pgnotifier.contrib.celery import CeleryDispatcher, CeleryNotifier
from pgnotifier.contrib.django import Channel, notify_on
from pgnotifier.contrib.rq import RQDispatcher
from pgnotifier.durable import apublish, publish, publish_many

Notifier()  # type: ignore[call-arg]
Notifier(5432)  # type: ignore[arg-type]
Notifier(None, InlineDispatcher())  # type: ignore[call-arg]
Notifier(None, dispatcher="celery")  # type: ignore[arg-type]
Notifier(None, dispatcher=InlineDispatcher)  # type: ignore[arg-type]
Notifier(None, overflow="drop")  # type: ignore[arg-type]
Notifier(None, heartbeat="15")  # type: ignore[arg-type]
Notifier(None, buffer_size=1.5)  # type: ignore[arg-type]
Notifier(None, standby=True)  # type: ignore[arg-type]
Notifier(None, heart_beat=15)  # type: ignore[call-arg]
Notifier(None, on_gap=lambda: None)  # type: ignore[arg-type,misc]

notifier = Notifier(None)
notifier.add_channel(5)  # type: ignore[arg-type]
notifier.add_channels(["orders", 5])  # type: ignore[list-item]
notifier.subscribe("count", "orders")  # type: ignore[call-arg]
notifier.subscribe("count", ["orders"], print)  # type: ignore[arg-type]
notifier.subscribe(["count"], "orders", print)  # type: ignore[arg-type]
notifier.subscribe("count", "orders", "shop.count")  # type: ignore[arg-type]
notifier.subscribe("count", "orders", print, batch=500)  # type: ignore[arg-type]
notifier.subscribe("count", "orders", print, debounce="0.5")  # type: ignore[arg-type]
notifier.subscribe("count", "orders", print, dispatcher="inline")  # type: ignore[arg-type]
notifier.unsubscribe("count")  # type: ignore[call-arg]
notifier.stop("now")  # type: ignore[arg-type]
notifier.notify(b"orders")  # type: ignore[arg-type]
notifier.notify("orders", 1, encoder=5)  # type: ignore[arg-type]
notifier.status().state = "stopped"  # type: ignore[misc]
not_a_channel: list[int] = notifier.get_channels()  # type: ignore[assignment]

Dispatcher()  # type: ignore[abstract]
ThreadDispatcher("8")  # type: ignore[arg-type]
ThreadDispatcher(8, False)  # type: ignore[call-arg]
AsyncioDispatcher(8)  # type: ignore[arg-type]

CeleryNotifier()  # type: ignore[call-arg]
CeleryNotifier("shop")  # type: ignore[arg-type]
CeleryDispatcher(Celery("shop"), task_prefix=5)  # type: ignore[arg-type]
RQDispatcher()  # type: ignore[call-arg]
RQDispatcher(6379)  # type: ignore[arg-type]

Channel()  # type: ignore[call-arg]
Channel("orders", "audit")  # type: ignore[call-arg]
Channel("orders", durable=True, max_lag=7)  # type: ignore[arg-type]
Channel("orders", durable=True, max_lags=None)  # type: ignore[call-arg]
orders = Channel("orders")
orders.notify(1, encoder=5)  # type: ignore[arg-type]
notify_on("shop.Order", channel=orders)  # type: ignore[arg-type]


def publish_wrongly(
    connection: psycopg.Connection[Any], other: psycopg.AsyncConnection[Any]
) -> None:
    """Publish with the wrong types."""
    publish("dbname=shop", "orders", 1)  # type: ignore[arg-type]
    publish(other, "orders", 1)  # type: ignore[arg-type]
    publish(connection, 5)  # type: ignore[arg-type]
    publish(connection, "orders", 1, 7)  # type: ignore[arg-type]
    publish(connection, "orders", 1, "7", "key")  # type: ignore[call-arg]
    publish(connection, "orders", 1, "7", order="id")  # type: ignore[arg-type]
    publish_many(connection, "orders", 5)  # type: ignore[arg-type]
    apublish(connection, "orders", 1)  # type: ignore[arg-type,unused-coroutine]


@orders.task(5)  # type: ignore[call-overload,untyped-decorator]
def invoice(sender: Any, payload: Any) -> None:
    """Become a task, with an id that is given by position."""


@notifier.on(5)  # type: ignore[arg-type]
def count(id: str, channel: str, payload: Any, pid: int) -> None:
    """Subscribe to a number, which is not a channel."""
