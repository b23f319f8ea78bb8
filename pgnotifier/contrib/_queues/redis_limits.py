"""Find the size limit beyond which Redis closes the connection without an answer."""

from typing import Any

DEFAULT_BULK_LIMIT = 512 * 1024 * 1024


def find_bulk_limit(client: Any) -> int:
    """Return how many bytes a value may have at most, or the default if clients may not ask.

    Raises:
        Exception: Redis is down. The type depends on the client.
    """
    try:
        found = client.config_get("proto-max-bulk-len")
        return int(found["proto-max-bulk-len"])
    except (KeyError, ValueError):
        pass
    except Exception as exc:
        if type(exc).__name__ not in ("ResponseError", "NoPermissionError"):
            raise
    return DEFAULT_BULK_LIMIT
