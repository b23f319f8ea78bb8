"""Check the jobs that were enqueued from SQL, and have RQ make them."""

import re
from functools import lru_cache
from typing import Any

from rq import Queue
from rq.job import JobStatus

from pgnotifier.contrib.rq.errors import JobNotAllowedError
from pgnotifier.contrib.rq.outbox_jobs import JobRequest, MadeJob, make

WITHOUT_LIMIT = -1


def make_requested(
    queue: Queue, request: JobRequest, job_id: str, allow: tuple[str, ...]
) -> MadeJob:
    """Have RQ make the job that was enqueued from SQL. It isn't sent to Redis.

    Args:
        queue: The queue of the job.
        request: The job that was enqueued from SQL.
        job_id: The id to use if it has none.
        allow: Patterns, one of which the function has to match.

    Raises:
        JobNotAllowedError: The relay may not send this function.
        Exception: What RQ raises, because a number of seconds is 0 for example.
    """
    name = request.function
    if not any(_matcher(pattern)(name) for pattern in allow):
        raise JobNotAllowedError(
            f"the function {name!r:.200} matches no pattern in allow=[…] of the relay"
        )
    settings: dict[str, Any] = {
        name: value
        for name in ("timeout", "result_ttl", "failure_ttl", "description", "meta")
        if (value := getattr(request, name)) is not None
    }
    if request.ttl not in (None, WITHOUT_LIMIT):  # RQ has no number for "without limit" here
        settings["ttl"] = request.ttl
    job = queue.create_job(
        name,
        args=tuple(request.args),
        kwargs=request.kwargs,
        job_id=request.id or job_id,
        status=JobStatus.QUEUED if request.at is None else JobStatus.SCHEDULED,
        **settings,
    )
    return make(job, queue, at=request.at)


@lru_cache
def _matcher(pattern: str) -> Any:
    """Return a function that says whether a name matches a pattern.

    `*` stands for anything but a dot. A worker looks up each part of a name in the one before: if
    `shop.jobs` imports os, then `shop.jobs.os.system` is a function, too.
    """
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.compile(r"[^.]*".join(parts)).fullmatch
