"""Send texts as notifications without encoding them again, many in one statement."""

from collections.abc import Sequence
from typing import Any

import psycopg

from pgnotifier._connection.encoding import Encoding
from pgnotifier.errors import PayloadEncodingError, PayloadTooLargeError
from pgnotifier.payload import MAX_PAYLOAD_BYTES

_NOTIFY_ALL = """
SELECT pg_catalog.pg_notify(%s, given.text)
FROM pg_catalog.unnest(%s::pg_catalog.text[]) AS given (text)
"""


def notify_all(connection: psycopg.Connection[Any], channel: str, texts: Sequence[str]) -> None:
    """Send notifications with these payloads, in order: either all of them or none.

    Args:
        connection: A connection in autocommit mode. A pooler in transaction mode does no harm.
        channel: The channel.
        texts: The payloads, checked by `check_text`, without duplicates: PostgreSQL sends equal
            notifications of a transaction only once. See
            https://www.postgresql.org/docs/current/sql-notify.html
    """
    connection.execute(_NOTIFY_ALL, (channel, list(texts)), prepare=False)


def check_text(text: str, encoding: Encoding) -> str:
    """Return a text if it can be sent.

    Raises:
        PayloadEncodingError: As `measure` raises it.
        PayloadTooLargeError: It has over 7,999 bytes in the database's encoding.
    """
    size = measure(text, encoding)
    if size > MAX_PAYLOAD_BYTES:
        raise PayloadTooLargeError(
            f"a payload has {size} bytes, and NOTIFY takes {MAX_PAYLOAD_BYTES} at most. Publish it "
            "with --durable, which takes 64 MiB; or store it in a table, and send its key"
        )
    return text


def measure(text: str, encoding: Encoding) -> int:
    """Return how many bytes a text has in the database's encoding.

    Raises:
        PayloadEncodingError: It contains NUL, isn't valid Unicode, or the encoding lacks one of its
            characters.
    """
    if "\0" in text:
        raise PayloadEncodingError("a payload contains NUL, which PostgreSQL refuses")
    try:
        return len(encoding.encode(text))
    except UnicodeEncodeError as exc:
        if encoding.is_utf8:
            raise PayloadEncodingError("a payload isn't valid UTF-8") from None
        raise PayloadEncodingError(
            f"a payload has the character {exc.object[exc.start]!r}, and the database's encoding, "
            f"{encoding.name}, has none for it"
        ) from None
