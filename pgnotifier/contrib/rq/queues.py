"""Make RQ queues: from a connection or a URL, and others like an existing queue."""

import re
from typing import Any

from redis import Redis
from rq import Queue

from pgnotifier.errors import ArgumentTypeError, ConfigurationError

TIMEOUT = 10.0
"""Seconds to wait for the connection, and for an answer, if only a URL is given."""
_NO_URL = (
    "the URL of a Redis server must begin with redis://, rediss:// or unix://; in a password, "
    "percent-encode characters such as / ? # [ ] & with urllib.parse.quote(…, safe=''); after a ?, "
    "it may have redis-py's options of connections only"
)
# In such a URL, the path would contain the rest of a password, and redis-py shows it in its errors.
_MISREAD = re.compile(r"unix://[^/@]+[/?#][^@]*@")


def make_queue(given: Any, user: str = "RQDispatcher") -> tuple[Queue, bool]:
    """Return a queue, and whether its connection was made for it.

    Args:
        given: A queue, a connection or its URL.
        user: The class that needs the queue, for the error.

    Raises:
        ArgumentTypeError: It is none of them.
        ConfigurationError: The URL can't be parsed.
    """
    if isinstance(given, Queue):
        return given, False
    if isinstance(given, Redis):
        return Queue(connection=given), False
    if not isinstance(given, str):
        raise ArgumentTypeError(
            f"{user} needs an rq.Queue, a redis.Redis or its URL, not {type(given).__name__}"
        )
    if _MISREAD.match(given):
        raise ConfigurationError(_NO_URL)
    try:
        connection = Redis.from_url(given, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
        # Only now does redis-py check what the URL's query names. This doesn't connect yet.
        pool = connection.connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError):
        raise ConfigurationError(_NO_URL) from None  # its message may contain part of the password
    return Queue(connection=connection), True


def queue_like(base: Queue, name: str, *, is_async: bool | None = None) -> Queue:
    """Return a queue of another name, with the class, connection and settings of a given one.

    Args:
        base: The queue that it is like.
        name: Its name.
        is_async: Whether workers run its jobs. Default: as for the other queue.
    """
    return type(base)(
        name,
        connection=base.connection,
        is_async=base.is_async if is_async is None else is_async,
        job_class=base.job_class,
        serializer=base.serializer,
        default_timeout=base._default_timeout,  # noqa: SLF001 - there is no public access
    )
