"""Check for `pgnotifier doctor` that tasks of subscriptions reach workers that know them."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from pgnotifier._runtime.log_records import duration
from pgnotifier.cli.doctor.asking import within
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Finding, Findings, failed, ok, warning
from pgnotifier.contrib._queues.checkup_redis import advise, check_redis
from pgnotifier.contrib.celery.broker import Broker
from pgnotifier.contrib.celery.checkup_workers import Routed, check_workers
from pgnotifier.contrib.celery.dispatcher import CeleryDispatcher
from pgnotifier.contrib.celery.settings import check_urls
from pgnotifier.contrib.celery.workers import names_of
from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import in_one_line

_VISIBILITY = 3600.0
"""Celery's default of `visibility_timeout`, in seconds:
https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html"""


def check(case: Case, dispatchers: Sequence[Dispatcher]) -> Findings:
    """Check the apps of dispatchers: their brokers, workers, tasks and queues."""
    apps: dict[int, tuple[Any, list[Any]]] = {}
    for one in dispatchers:
        app = getattr(one, "app", None)
        if app is not None:
            apps.setdefault(id(app), (app, []))[1].append(one)
    for app, its_own in apps.values():
        app.set_current()
        app.finalize(auto=True)
        yield from _check_app(case, app, its_own)


def _check_app(case: Case, app: Any, dispatchers: Sequence[Any]) -> Findings:
    if app.conf.task_always_eager:
        yield warning(
            "broker",
            "task_always_eager is set: tasks run in the listener, and no worker gets any.",
            "Unset it, except in tests.",
        )
        return
    broker = Broker(app)
    try:
        reached = yield from _reach(case, app, broker)
        if reached is not None:
            routed = [one for dispatcher in dispatchers for one in _list_routed(dispatcher)]
            if reached.get_transport_cls().driver_type == "redis":
                client = within(case.timeout, lambda: reached.default_channel.client)
                yield from check_redis(case, client, "the broker")
            yield from _check_visibility(app, reached, dispatchers)
            yield from check_workers(case, app, reached, routed)
            yield from _check_backend(case, app, dispatchers)
    finally:
        broker.close()


def _reach(case: Case, app: Any, broker: Broker) -> Generator[Finding, None, Any]:
    """Connect to the broker; return the connection, or None if there is none."""
    shown = "The broker"

    def connect() -> Any:
        with broker.lease() as lease:  # which keeps the connection until it is closed
            return lease.producer.connection

    try:
        check_urls(app)
        described = app.connection_for_write()
        case.secrets.extend(filter(None, [described.password]))
        shown = f"The broker {_describe(described)}"
        connection = within(case.timeout, connect, lambda late: late.collect())
    except Exception as exc:  # noqa: BLE001 - a transport may raise anything
        reason = in_one_line(exc).rstrip(".")
        yield failed("broker", f"{shown} can't be reached: {reason}.", advise(reason))
        return None
    yield ok("broker", f"{shown} answers.")
    return connection


def _describe(connection: Any) -> str:
    """Return the URL of a broker, without a user and a password."""
    scheme = connection.transport_cls if isinstance(connection.transport_cls, str) else "broker"
    port = f":{connection.port}" if connection.port else ""
    host = str(connection.virtual_host or "").removeprefix("/")
    return f"{scheme}://{connection.hostname or ''}{port}/{host}"


def _list_routed(dispatcher: Any) -> Iterator[Routed]:
    """Yield what the subscriptions of a dispatcher send; nothing for the relay of an outbox."""
    if not isinstance(dispatcher, CeleryDispatcher):
        return
    # Both have the order of the subscriptions.
    for row, target in zip(dispatcher.inventory().values(), dispatcher.targets(), strict=True):
        yield Routed(row.id, row.channel, row.task, row.queue, frozenset(names_of(target)))


def _check_visibility(app: Any, connection: Any, dispatchers: Sequence[Any]) -> Findings:
    """Check that no task can take longer than the broker waits for its acknowledgement."""
    if connection.get_transport_cls().driver_type not in ("redis", "sqs"):
        return
    limit = float((app.conf.broker_transport_options or {}).get("visibility_timeout", _VISIBILITY))
    for dispatcher in dispatchers:
        for target in dispatcher.targets():
            options = {**target.own_options, **target.options}
            late = getattr(target.task, "acks_late", False) and getattr(
                target.task, "time_limit", None
            )
            longest = max(_number(options.get("countdown")), _number(late))
            if longest > limit:
                yield warning(
                    "visibility",
                    f"Task {target.shown!r} may be out for {duration(longest)}, and the broker "
                    f"hands it to another worker after {duration(limit)}.",
                    "Set broker_transport_options = {'visibility_timeout': …} to more than that.",
                )


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _check_backend(case: Case, app: Any, dispatchers: Sequence[Any]) -> Findings:
    """Check that the result backend answers, if it is Redis and results are stored there."""
    is_used = any(
        not target.ignores_result for dispatcher in dispatchers for target in dispatcher.targets()
    )
    client = getattr(app.backend, "client", None) if is_used else None
    if not hasattr(client, "ping"):
        return
    try:
        within(case.timeout, client.ping)  # type: ignore[union-attr]
    except Exception as exc:  # noqa: BLE001 - the client may raise anything
        reason = in_one_line(exc).rstrip(".")
        seen = f"The result backend {app.backend.as_uri()} can't be reached: {reason}."
        yield failed("results", seen, f"{advise(reason)} Or set ignore_result for these tasks.")
    else:
        yield ok("results", f"The result backend {app.backend.as_uri()} answers.")
