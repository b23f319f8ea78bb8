"""Forward batches of an outbox's jobs to Redis."""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
from redis import Redis, RedisError
from redis.exceptions import DataError, ResponseError
from rq import Queue
from rq.utils import now, utcformat

from pgnotifier._runtime.log_records import about
from pgnotifier.contrib._queues.hiding import without_arguments
from pgnotifier.contrib._queues.redis_errors import is_wrong_type
from pgnotifier.contrib._queues.redis_limits import find_bulk_limit
from pgnotifier.contrib.rq.errors import JobRefusedError
from pgnotifier.contrib.rq.job_placing import place, restore
from pgnotifier.contrib.rq.job_requests import make_requested
from pgnotifier.contrib.rq.job_script import JobNotes, Post, commands_for, effect_of, send
from pgnotifier.contrib.rq.outbox_jobs import JobRequest, MadeJob, make, read
from pgnotifier.contrib.rq.queues import queue_like
from pgnotifier.dispatch import Batch, Delivery
from pgnotifier.errors import PgNotifierError, in_one_line

logger = logging.getLogger("pgnotifier.rq")

PORTION = 500
"""The maximum number of jobs in one round trip."""
PORTION_CHARACTERS = 4 << 20
"""How many characters of payloads end a round trip: no more jobs are added to it."""
MOST_REFUSED = 10_000
"""How many ids of refused jobs are remembered."""
_ALWAYS_FITS = 1 << 18
"""A text of this many characters, of up to 4 bytes each, is under the lowest limit of a server."""


class _Step(NamedTuple):
    """A delivery, and what is to be enqueued for it: a job, or the reason why none is.

    Both are None for a delivery that is passed on.
    """

    delivery: Delivery
    post: Post | None = None
    problem: Exception | None = None
    job_id: str | None = None


class JobRelay:
    """Forwards for one deliverer. Only its thread uses it."""

    def __init__(self, queue: Queue, name: str, allow: tuple[str, ...]) -> None:
        """Prepare; nothing is sent yet.

        Args:
            queue: A queue. The others are made like it.
            name: The name of the outbox.
            allow: Which functions may be enqueued from SQL: see `make_requested`.
        """
        self._base = queue
        self._connection: Redis = queue.connection
        self._allow = allow
        self._notes = JobNotes(name)
        self._queues: dict[str, Queue] = {}
        self._refused_ids: dict[str, None] = {}
        self._forwarded: Counter[str] = Counter()
        self._refused = 0
        self._sends_many: bool | None = None
        self._limit: int | None = None

    def take_counts(self) -> tuple[Counter[str], int]:
        """Return how many jobs were enqueued by function, and refused, since the last call."""
        forwarded, self._forwarded = self._forwarded, Counter()
        refused, self._refused = self._refused, 0
        return forwarded, refused

    def forward(self, batch: Batch) -> None:
        """Enqueue each job, and acknowledge it once Redis has it.

        Jobs that depend on nothing go together. RQ itself enqueues the others, one by one.

        Raises:
            redis.RedisError: Redis is down, or accepts nothing.
        """
        if self._sends_many is None:
            self._sends_many = self._find_whether_alike()
        while portion := batch.rest(PORTION):
            together: list[_Step] = []
            alone: _Step | None = None
            characters = 0
            for delivery in portion:
                step = self._read(delivery)
                if step.post is not None and not (self._sends_many and step.post.job.is_plain):
                    alone = step
                    break
                together.append(step)
                characters += len(delivery.notification.raw)
                if characters >= PORTION_CHARACTERS:
                    break
            if together:
                self._send(together)
                batch.done(len(together))
            if alone is not None and batch.rest(1):
                self._place(alone)
                batch.done(1)

    def _read(self, delivery: Delivery) -> _Step:
        if not delivery.binding.live:
            return _Step(delivery)
        entry = delivery.identify_as_text() or ""
        job_id: str | None = None
        try:
            made = read(delivery.notification.raw)
            job_id = made.id
            if isinstance(made, JobRequest):
                queue = self._find_queue(made.queue or self._base.name)
                made = make_requested(queue, made, entry, self._allow)
            self._check_sizes(made)
            post = Post(entry, made, self._find_queue(made.queue))
        except Exception as exc:  # noqa: BLE001 - serializers may raise anything
            if _is_down(exc):
                raise _without_arguments(exc, [delivery]) from None
            return _Step(delivery, problem=_hide_arguments(exc, delivery), job_id=job_id)
        return _Step(delivery, post, job_id=made.id)

    def _send(self, steps: list[_Step]) -> None:
        """Enqueue jobs together. Report what is refused once Redis has the others.

        Raises:
            redis.RedisError: Redis is down, or accepts nothing.
        """
        posts = [step.post for step in steps if step.post is not None]
        try:
            answers = iter(send(self._connection, self._notes, posts) if posts else ())
        except RedisError as exc:
            raise _without_arguments(exc, [step.delivery for step in steps]) from None
        for step in steps:
            if step.post is None:
                self._end(step)
                continue
            answer = next(answers)
            is_left_out = answer in ("noted", "exists")
            problem = JobRefusedError(answer) if answer and not is_left_out else None
            self._end(step._replace(problem=problem), is_new=not answer)

    def _place(self, step: _Step) -> None:
        """Have RQ enqueue a job.

        Raises:
            redis.RedisError: Redis is down, or accepts nothing.
        """
        assert step.post is not None
        try:
            self._check_dependencies(step.post.job)
            is_new = place(self._connection, self._notes, step.post)
        except Exception as exc:  # noqa: BLE001 - classes of users may raise anything
            if _is_down(exc):
                raise _without_arguments(exc, [step.delivery]) from None
            problem = _hide_arguments(exc, step.delivery)
            self._end(step._replace(problem=_explain(problem)))
        else:
            self._end(step, is_new=is_new)

    def _end(self, step: _Step, *, is_new: bool = False) -> None:
        delivery, post, problem, job_id = step
        if problem is not None:
            self._refused += 1
            if job_id is not None:
                self._remember_refused(job_id)
            delivery.report(problem)
        elif post is None:
            delivery.pass_on()
        else:
            self._refused_ids.pop(post.job.id, None)
            if is_new:
                self._forwarded[post.job.function] += 1

    def _remember_refused(self, job_id: str) -> None:
        self._refused_ids[job_id] = None
        if len(self._refused_ids) > MOST_REFUSED:
            del self._refused_ids[next(iter(self._refused_ids))]

    def _find_queue(self, name: str) -> Queue:
        found = self._queues.get(name)
        if found is None:
            found = self._queues[name] = queue_like(self._base, name, is_async=True)
        return found

    def _check_sizes(self, made: MadeJob) -> None:
        """Check that Redis accepts each field: it would close the connection without an answer.

        https://redis.io/docs/latest/develop/reference/protocol-spec/#bulk-strings
        """
        for field in made.fields.values():
            if not isinstance(field, bytes | str) or len(field) < _ALWAYS_FITS:
                continue
            size = len(field.encode() if isinstance(field, str) else field)
            if self._limit is None:
                self._limit = find_bulk_limit(self._connection)
            if size > self._limit:
                raise JobRefusedError(
                    f"the job has {size:,} bytes, and Redis accepts {self._limit:,} (its setting "
                    "proto-max-bulk-len)"
                )

    def _check_dependencies(self, made: MadeJob) -> None:
        """Check that no job that this one depends on was refused: RQ would run this one at once."""
        listed = made.fields.get("dependency_ids")
        if not self._refused_ids or not isinstance(listed, str):
            return
        for one in msgspec.json.decode(listed, type=list[str]):
            if one in self._refused_ids:
                raise JobRefusedError(
                    f"it depends on the job {one}, which was refused: retry that one first"
                )

    def _find_whether_alike(self) -> bool:
        """Return whether our commands that enqueue many jobs are the same as RQ's.

        RQ asks the server for its version. Nothing else is sent.
        """
        try:
            is_alike = all(self._is_alike(at_front=one) for one in (False, True))
        except Exception as exc:
            if _is_down(exc):
                raise
            is_alike = False  # a class of the user's may raise anything
        if not is_alike:
            logger.info(
                "RQ enqueues each job of the outbox by itself, as a class of the queue %r doesn't "
                "write what RQ's own does",
                self._base.name,
                extra=about("unstamped"),
            )
        return is_alike

    def _is_alike(self, *, at_front: bool) -> bool:
        queue, time = self._find_queue(self._base.name), utcformat(now())
        made = make(queue.create_job("pgnotifier", ttl=60, meta={"a": 1}), queue)
        made = msgspec.structs.replace(made, at_front=at_front)
        pipeline: Any = self._connection.pipeline()  # it is never executed
        job = restore(made, queue)
        queue.enqueue_job(job, pipeline=pipeline, at_front=at_front)
        rest = [("HSET", job.key, "enqueued_at", time), ("HSET", job.key, "meta", b"")]
        ours = [*commands_for(made, queue, time), *rest]
        theirs = [*(tuple(command) for command, _ in pipeline.command_stack), *rest]
        return bool(effect_of(ours) == effect_of(theirs))


def _is_down(exc: Exception) -> bool:
    """Return whether an error means that nothing can be enqueued for now."""
    if isinstance(exc, PgNotifierError | DataError) or is_wrong_type(exc):
        return False
    return isinstance(exc, RedisError | OSError)


def _hide_arguments(exc: Exception, delivery: Delivery) -> Exception:
    """Return a reason that may be logged: a serializer may put arguments into its errors.

    So may a class of the user's. What this package says by itself has keys, ids and functions only.
    """
    if isinstance(exc, PgNotifierError):
        return exc
    return without_arguments(exc, delivery.notification.raw, JobRefusedError, "job")


def _without_arguments(exc: Exception, deliveries: Iterable[Delivery]) -> Exception:
    """Return an error of a server that may be logged: Redis may name a command with its arguments.

    Those of redis-py itself name the server, as there is no answer.
    """
    if isinstance(exc, RedisError) and not isinstance(exc, ResponseError):
        return exc
    for delivery in deliveries:
        found = without_arguments(exc, delivery.notification.raw, RedisError, "job")
        if found is not exc:
            return found
    return exc


def _explain(exc: Exception) -> JobRefusedError:
    if isinstance(exc, JobRefusedError):
        return exc
    error = JobRefusedError(f"RQ refuses the job: {in_one_line(exc)}")
    error.__cause__ = exc
    return error
