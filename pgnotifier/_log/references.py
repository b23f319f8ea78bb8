"""References: what volatile listeners get in place of a payload that is too long for NOTIFY.

`pgnotifier.publish(…, notify => true)` sends them on a channel of their own, so that no payload can
be mistaken for one. Anybody who may connect can send one as well. That only makes a listener read
an entry of a channel that it listens to, and deliver the entry on this channel.
"""

import re
from typing import Any, NamedTuple

import psycopg

from pgnotifier._connection.session import encoding_of

CHANNEL = "pgnotifier_reference"
"""Where references are sent."""

PUBLISHED = "pgnotifier_published"
"""Where the name of a channel is sent before an entry that is also sent as a notification on that
channel, in the same transaction."""

_TEXT = re.compile(rb"([0-9]{1,20}) ([0-9]{1,19}) (.{1,63})", re.DOTALL)
# The transaction comes first, as in the index.
_FIND = """
SELECT pg_catalog.convert_to(payload, pg_catalog.getdatabaseencoding()) FROM pgnotifier.log
WHERE xid OPERATOR(pg_catalog.=) %s::pg_catalog.xid8 AND id OPERATOR(pg_catalog.=) %s
AND pg_catalog.convert_to(channel, pg_catalog.getdatabaseencoding()) OPERATOR(pg_catalog.=) %s
AND pg_catalog.octet_length(payload) OPERATOR(pg_catalog.>) 7999
"""


class Reference(NamedTuple):
    """An entry of the log.

    Attributes:
        xid: The transaction that has published it.
        id: Its number.
    """

    xid: int
    id: int


def parse_reference(data: bytes) -> tuple[Reference, bytes] | None:
    """Return a reference and the name of its channel; None if somebody has sent something else.

    Args:
        data: What was sent, in UTF-8.
    """
    found = _TEXT.fullmatch(data)
    if found is None:
        return None
    xid, id, channel = found.groups()  # noqa: A001 - the column's name
    reference = Reference(int(xid), int(id))
    return (reference, channel) if reference.xid < 1 << 64 and reference.id < 1 << 63 else None


def read_payload(
    connection: psycopg.Connection[Any], channel: str, reference: Reference
) -> bytes | None:
    """Return the payload that a reference stands for, in UTF-8; None if the log no longer has it.

    Args:
        connection: A connection of a listener.
        channel: The channel that the entry has to belong to.
        reference: The entry.
    """
    encoding = encoding_of(connection)
    values = (str(reference.xid), reference.id, encoding.encode(channel))
    row = connection.execute(_FIND, values, binary=True).fetchone()
    return None if row is None else encoding.to_utf8(row[0])
