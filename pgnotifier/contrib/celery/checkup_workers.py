"""Ask the workers for `pgnotifier doctor`: is each task registered where its queue is read?

https://docs.celeryq.dev/en/stable/userguide/workers.html#inspecting-workers
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pgnotifier._runtime.log_records import count
from pgnotifier.cli.doctor.asking import within
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Finding, Findings, failed, ok, warning
from pgnotifier.errors import in_one_line

_NAMED = 10
"""How many workers are named at most."""
FIRST_WAIT = 1.0
"""Seconds to collect the first answers. If there are none, this waits for the whole timeout."""


class Routed(NamedTuple):
    """What the notifications of a subscription become.

    Attributes:
        id: The subscription's id, as text.
        channel: The subscription's channel.
        task: The name of the task, or Celery's representation of a canvas.
        queue: The name of its queue; or `exchange/routing key` if there is an exchange.
        names: The names of all its tasks.
    """

    id: str
    channel: str
    task: str
    queue: str
    names: frozenset[str]

    def __str__(self) -> str:
        return f"subscription {self.id!r} to channel {self.channel!r}"


@dataclass(frozen=True, slots=True)
class Workers:
    """What the workers have answered.

    Attributes:
        names: Their names.
        registered: The names of the tasks that each knows.
        queues: The queues that each reads, as Celery describes them.
    """

    names: Sequence[str]
    registered: Mapping[str, Collection[str]]
    queues: Mapping[str, Sequence[Mapping[str, Any]]]

    def reading(self, queue: str) -> list[str]:
        """Return the workers that read a queue."""
        return [
            name for name in self.names if any(map(_leads_to(queue), self.queues.get(name) or ()))
        ]

    def lacking(self, names: Iterable[str], among: Iterable[str]) -> dict[str, list[str]]:
        """Return the tasks that workers don't know, by the name of the worker."""
        known = {one: self.registered[one] for one in among if one in self.registered}
        lacks = {one: sorted(set(names).difference(tasks)) for one, tasks in known.items()}
        return {one: missing for one, missing in lacks.items() if missing}


def check_workers(case: Case, app: Any, connection: Any, routed: Sequence[Routed]) -> Findings:
    """Check that workers answer, and that each subscription's task gets to one that knows it."""
    if not app.conf.worker_enable_remote_control:
        yield warning(
            "workers",
            "worker_enable_remote_control is off, so that no worker can be asked.",
            "Compare by hand what `celery worker` prints at its start: its queues and its tasks.",
        )
        return
    try:
        workers = within(
            4 * case.timeout + 2 * FIRST_WAIT, lambda: _ask(app, connection, case.timeout)
        )
    except Exception as exc:  # noqa: BLE001 - a transport may raise anything
        yield warning(
            "workers",
            f"The workers can't be asked: {in_one_line(exc)}.",
            "Not every broker can do that (Redis and RabbitMQ can); compare by hand.",
        )
        return
    if not workers.names:
        yield failed(
            "workers",
            f"No worker has answered within {FIRST_WAIT + case.timeout:g} s: tasks wait in the "
            "queue.",
            "Start one with celery -A … worker, with this broker. A worker with --pool=solo "
            "answers between tasks only: try again, or with a longer --timeout.",
        )
        return
    shown = ", ".join(sorted(workers.names)[:_NAMED])
    yield ok("workers", f"{count(len(workers.names), 'worker')} answered: {shown}.")
    yield from (_judge(workers, one) for one in routed)


def _ask(app: Any, connection: Any, timeout: float) -> Workers:
    def inspect(seconds: float, limit: int | None = None) -> Any:
        return app.control.inspect(timeout=seconds, connection=connection, limit=limit)

    names = sorted(inspect(FIRST_WAIT).ping() or inspect(timeout).ping() or ())
    if not names:
        return Workers((), {}, {})
    # With a limit, the last answer ends the wait.
    asked = inspect(timeout, len(names))
    # For an attribute that no task has: attributes would be appended to the names.
    registered = asked.registered("_pgnotifier_nothing") or {}
    queues = asked.active_queues() or {}
    return Workers(names, _lists(registered), _lists(queues))


def _lists(answers: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the answers that aren't errors."""
    return {worker: said for worker, said in answers.items() if isinstance(said, list)}


def _judge(workers: Workers, one: Routed) -> Finding:
    if one.queue.startswith("? ("):
        return warning(
            "queues",
            f"Where task {one.task!r} of {one} goes isn't known before it is sent: the router "
            f"fails without its arguments {one.queue[2:]}.",
            "Have the router of task_routes cope with empty arguments.",
        )
    readers = workers.reading(one.queue)
    if not readers and "/" in one.queue:
        return failed(
            "queues",
            f"No worker reads a queue that gets what {one} sends to the exchange and routing key "
            f"{one.queue!r}: task {one.task!r}.",
            "Bind a queue to them that a worker reads; or correct exchange= and routing_key=.",
        )
    if not readers:
        return failed(
            "queues",
            f"No worker reads the queue {one.queue!r}, to which {one} sends task {one.task!r}.",
            f"Start a worker with -Q {one.queue}; or correct queue=, or task_routes, which choose "
            "the queue.",
        )
    lacking = workers.lacking(one.names, readers)
    # The further tasks of a canvas may go to other queues.
    if len(one.names) > 1:
        known = set().union(*workers.registered.values())
        lacking = {name: missing for name, missing in lacking.items() if set(missing) - known}
    if lacking:
        worker, missing = next(iter(lacking.items()))
        several = f" (and so do {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        return failed(
            "tasks",
            f"Worker {worker} reads the queue {one.queue!r}, but doesn't know the task "
            f"{missing[0]!r} of {one}, and discards it{several}.",
            "Have workers import the module that subscribes, with include= or imports, and "
            "restart them: a worker knows the tasks that were there when it started.",
        )
    return ok(
        "tasks",
        f"{_capitalize(str(one))}: task {one.task!r}, queue {one.queue!r}, "
        f"{count(len(readers), 'worker')}.",
    )


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


def _leads_to(queue: str) -> Any:
    """Return a function: do messages for a queue or an exchange get to a queue of a worker?"""
    exchange, has_exchange, key = queue.partition("/")

    def leads(read: Mapping[str, Any]) -> bool:
        if read.get("name") == queue:
            return True
        known = read.get("exchange") or {}
        return bool(
            has_exchange
            and known.get("name") == exchange
            and (known.get("type") != "direct" or read.get("routing_key") == key)
        )

    return leads
