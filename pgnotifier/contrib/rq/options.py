"""Check the options of RQ jobs when a subscription is made."""

import inspect
from collections.abc import Hashable, Mapping
from typing import Any

from rq import Callback, Queue, Retry

from pgnotifier._runtime.suggestions import suggest
from pgnotifier.contrib._queues.functions import find_path
from pgnotifier.errors import ArgumentTypeError, ConfigurationError, UnknownOptionError

CALLBACKS = ("on_success", "on_failure", "on_stopped")
_CANDIDATES = (
    "at_front", "result_ttl", "ttl", "failure_ttl", "description", "meta", "retry", "repeat",
    "webhooks", *CALLBACKS,
)  # fmt: skip
_TAKEN = inspect.signature(Queue.prepare_data).parameters
OPTIONS = frozenset({"queue", "job_timeout", *(name for name in _CANDIDATES if name in _TAKEN)})
"""The options of `subscribe()`. Newer versions of RQ have more of them."""


def check_options(id: Hashable, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as `Queue.prepare_data` takes them, without the queue.

    Raises:
        UnknownOptionError: RQ has no such option, or it can't be the same for all jobs.
        ArgumentTypeError: A value is of the wrong type.
        DispatcherMismatchError: A worker couldn't import a callback of the job.
    """
    for name in given.keys() - OPTIONS:
        hint = suggest(name, sorted(OPTIONS))
        raise UnknownOptionError(f"subscription {id!r}: {name}= is not an option of jobs; {hint}")
    found = {name: value for name, value in given.items() if value is not None and name != "queue"}
    if "job_timeout" in found:
        found["timeout"] = found.pop("job_timeout")
    for name in CALLBACKS:
        if name in found:
            found[name] = _check_callback(id, name, found[name])
    if "retry" in found:
        found["retry"] = _check_retry(id, found["retry"])
    if not isinstance(found.get("at_front", False), bool):
        raise ArgumentTypeError(
            f"subscription {id!r}: at_front must be True or False, not {found['at_front']!r:.80}"
        )
    return found


def check_values(id: Hashable, queue: Queue, options: Mapping[str, Any]) -> None:
    """Check that RQ can make a job with the options. The job isn't enqueued.

    Raises:
        ConfigurationError: RQ refuses a value.
    """
    given = {name: value for name, value in options.items() if name != "at_front"}
    try:
        fields = queue.create_job("pgnotifier", args=(), **given).to_dict()
        for text in (queue.key, *fields.values()):
            if isinstance(text, str):
                text.encode()  # a lone surrogate can't be sent, and would hold up all other jobs
    except Exception as exc:
        shown = ", ".join(f"{name}={value!r:.40}" for name, value in options.items())
        raise ConfigurationError(
            f"subscription {id!r}: RQ can't make a job with {shown or repr(queue.name)}: {exc}"
        ) from exc


def _check_callback(id: Hashable, name: str, given: Any) -> Callback:
    if isinstance(given, Callback):
        return given
    if isinstance(given, str):
        return Callback(given)
    if not callable(given):
        raise ArgumentTypeError(
            f"subscription {id!r}: {name} must be a function or an rq.Callback, not {given!r:.80}"
        )
    return Callback(find_path(id, given))


def _check_retry(id: Hashable, given: Any) -> Retry:
    if isinstance(given, Retry):
        return given
    if isinstance(given, int) and not isinstance(given, bool) and given > 0:
        return Retry(max=given)
    raise ArgumentTypeError(
        f"subscription {id!r}: retry must be an rq.Retry or a number of retries, not {given!r:.80}"
    )
