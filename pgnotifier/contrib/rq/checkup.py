"""Check for `pgnotifier doctor` that jobs of subscriptions reach workers of RQ."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from rq import Queue
from rq.suspension import is_suspended
from rq.utils import import_attribute
from rq.worker_registration import get_keys

from pgnotifier._runtime.log_records import count
from pgnotifier._runtime.names import spell
from pgnotifier.cli.doctor.asking import within
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Finding, Findings, failed, ok
from pgnotifier.contrib._queues.checkup_redis import advise, check_redis
from pgnotifier.contrib.rq.dispatcher import RQDispatcher
from pgnotifier.contrib.rq.relay import JobRelayDispatcher
from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import in_one_line


def check(case: Case, dispatchers: Sequence[Dispatcher]) -> Findings:
    """Check the Redis of dispatchers, and the workers of their queues."""
    sent: dict[str, list[str]] = {}  # subscriptions, by queue
    queues: dict[str, Queue] = {}
    servers: dict[int, Any] = {}
    for one in dispatchers:
        found = _find_queues(one)
        for queue, subscription, function in found:
            servers[id(queue.connection)] = queue.connection
            queues[queue.name] = queue
            if subscription:
                sent.setdefault(queue.name, []).append(subscription)
                yield from _check_function(subscription, function)
    down = set()
    for key, connection in servers.items():
        well = yield from _check_server(case, connection)
        if not well:
            down.add(key)
    yield from (
        _judge(case, queues[name], subscriptions)
        for name, subscriptions in sent.items()
        if id(queues[name].connection) not in down
    )


def _find_queues(dispatcher: Dispatcher) -> list[tuple[Queue, str, str]]:
    """Return queues, each with a subscription and its function; those of a relay with neither."""
    if isinstance(dispatcher, JobRelayDispatcher):
        return [(dispatcher.queue, "", "")]
    if not isinstance(dispatcher, RQDispatcher):
        return []
    return [
        (target.queue, f"subscription {spell(key)!r} to channel {channel!r}", target.function)
        for (key, channel), target in dispatcher.targets().items()
    ]


def _check_function(subscription: str, path: str) -> Findings:
    try:
        import_attribute(path)
    except Exception as exc:  # noqa: BLE001 - modules of users may raise anything
        yield failed(
            "jobs",
            f"The function {path} of {subscription} can't be imported: {in_one_line(exc)}.",
            "Define it at the top level of a module, under that name.",
        )


def _check_server(case: Case, connection: Any) -> Generator[Finding, None, bool]:
    """Check one Redis; return whether it answers."""
    settings: Mapping[str, Any] = connection.connection_pool.connection_kwargs
    case.secrets.extend(filter(None, [settings.get("password")]))
    where = settings.get("path") or f"{settings.get('host')}:{settings.get('port')}"
    shown = f"The Redis at {where}"
    try:
        within(case.timeout, connection.ping)
    except Exception as exc:  # noqa: BLE001 - the client may raise anything
        reason = in_one_line(exc).rstrip(".")
        yield failed("broker", f"{shown} can't be reached: {reason}.", advise(reason))
        return False
    yield ok("broker", f"{shown} answers.")
    yield from check_redis(case, connection, "the broker")
    if within(case.timeout, lambda: is_suspended(connection)):
        yield failed(
            "workers", "All workers of RQ are suspended: no job is executed.", "Run: rq resume"
        )
    return True


def _judge(case: Case, queue: Queue, subscriptions: Sequence[str]) -> Finding:
    if not queue.is_async:
        return ok("workers", f"The queue {queue.name!r} runs jobs in the listener's process.")
    workers = within(case.timeout, lambda: _find_workers(queue))
    for_whom = f"{subscriptions[0]} sends jobs"
    if len(subscriptions) > 1:
        for_whom = f"{count(len(subscriptions), 'subscription')} send jobs"
    if not workers:
        return failed(
            "workers",
            f"No worker reads the queue {queue.name!r}, to which {for_whom}.",
            f"Start one: rq worker {queue.name}, with this Redis; or correct queue=.",
        )
    return ok("workers", f"{count(len(workers), 'worker')} for the queue {queue.name!r}.")


def _find_workers(queue: Queue) -> list[Any]:
    # Worker.all() would delete the keys of workers that are gone.
    return [key for key in get_keys(queue=queue) if queue.connection.exists(key)]
