"""Have RQ make jobs as always, but keep them for an outbox instead of writing them to Redis.

The queue is copied, and the class of the copy replaces RQ's last steps: looking at the jobs that a
job depends on, and writing to Redis. Everything before is RQ's own code, that of your subclass, or
what others have wrapped around it: Sentry adds its trace in `enqueue_job`.

    enqueue -> enqueue_call -> create_job -> enqueue_job -> setup_dependencies, _enqueue_job
    enqueue_at              -> create_job -> schedule_job
"""

from collections.abc import Iterable
from copy import copy
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rq import Queue

from pgnotifier.contrib.rq.outbox_jobs import MadeJob, make
from pgnotifier.errors import ConfigurationError

if TYPE_CHECKING:
    _Base = Queue
else:
    _Base = object

_SETTINGS_OF_DJANGO_RQ = {"_commit_mode": "auto", "_autocommit": True}
"""Otherwise, django-rq would wait for Django's commit itself, or for the end of the request."""


class Catching(_Base):
    """A base class that comes before the queue's own class in the class of a copied queue.

    Attributes:
        caught: The jobs that were enqueued.
        group: The name of RQ's group that they are added to.
        group_id: The group that RQ writes to a job.
    """

    caught: list[MadeJob]
    group: str | None
    group_id: str | None

    def enqueue_many(
        self, job_datas: Iterable[Any], pipeline: Any = None, group_id: str | None = None
    ) -> list[Any]:
        """Enqueue jobs in the order of RQ: those that depend on others come last."""
        check_pipeline(pipeline)
        given = [*job_datas]
        ids = [data.job_id for data in given if data.job_id is not None]
        if len(ids) > len({*ids}):
            raise ValueError("enqueue_many() got the same job_id more than once")
        self.group_id = group_id
        given.sort(key=lambda data: bool(data.depends_on))
        return [self.enqueue_call(**data._asdict()) for data in given]

    def enqueue_job(
        self, job: Any, pipeline: Any = None, at_front: bool = False, unique: bool = False
    ) -> Any:
        """Have RQ enqueue a job, up to its last step."""
        check_pipeline(pipeline)
        if getattr(job, "rate_limit_key", None):  # RQ takes no pipeline for these
            return self._enqueue_job(job, at_front=at_front, unique=unique)
        others = {"unique": True} if unique else {}  # as RQ 2.0 doesn't know it
        nowhere = self.connection.pipeline()  # it is never executed
        return super().enqueue_job(job, pipeline=nowhere, at_front=at_front, **others)

    def setup_dependencies(self, job: Any, pipeline: Any = None) -> Any:  # noqa: ARG002
        """Leave this to the relay: the jobs that a job depends on are in Redis."""
        return job

    def _enqueue_job(
        self,
        job: Any,
        pipeline: Any = None,  # noqa: ARG002
        at_front: bool = False,
        unique: bool = False,
    ) -> Any:
        if self.group_id is not None:
            job.group_id = self.group_id
        self.caught.append(make(job, self, at_front=at_front, is_unique=unique, group=self.group))
        return job

    def schedule_job(
        self, job: Any, datetime: datetime, pipeline: Any = None, unique: bool = False
    ) -> Any:
        """Keep a job, and when it is to be enqueued."""
        check_pipeline(pipeline)
        self.caught.append(make(job, self, is_unique=unique, at=datetime))
        return job


def check_pipeline(pipeline: Any) -> None:
    """Check that no pipeline of Redis is given.

    Raises:
        ConfigurationError: One is.
    """
    if pipeline is not None:
        raise ConfigurationError(
            "an outbox takes no pipeline=: the job is part of the transaction of PostgreSQL"
        )


@lru_cache
def _catching(queue_class: Any) -> Any:
    return type(queue_class.__name__, (Catching, queue_class), {})


class JobCapture:
    """A queue that keeps what is enqueued. Use it for one call.

    Attributes:
        queue: A copy of a queue. What is enqueued with it isn't written to Redis.
    """

    def __init__(self, queue: Queue, group: str | None = None) -> None:
        """Copy a queue.

        Args:
            queue: The queue.
            group: The name of RQ's group that the jobs are to be added to.
        """
        copied: Any = copy(queue)
        queue_class: Any = type(queue)
        copied.__class__ = _catching(queue_class)
        copied.caught, copied.group, copied.group_id = [], group, None
        self.queue = copied
        for name, value in _SETTINGS_OF_DJANGO_RQ.items():
            if hasattr(queue, name):
                setattr(self.queue, name, value)

    def take(self, count: int) -> list[MadeJob]:
        """Return the jobs.

        Args:
            count: How many were enqueued.

        Raises:
            ConfigurationError: The class of the queue has enqueued something else.
        """
        caught: list[MadeJob] = self.queue.caught
        if len(caught) != count:
            raise ConfigurationError(
                f"{type(self.queue).__name__} has made {len(caught)} jobs of {count} calls, so an "
                "outbox doesn't know what it enqueues; use a plain rq.Queue"
            )
        return caught
