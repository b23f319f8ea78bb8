"""Recognise errors of Redis that retrying can't fix."""


def is_wrong_type(error: BaseException) -> bool:
    """Return whether a command failed because its key isn't a list, so that retrying can't help.

    The class is compared by name, because Celery also works without a Redis client.
    """
    return type(error).__name__ == "ResponseError" and "WRONGTYPE" in str(error)
