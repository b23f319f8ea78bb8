"""Push many texts to lists of Redis and Valkey in one round trip.

redis-py and hiredis take three to four times as long for packing such a command.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import redis
from redis.exceptions import ResponseError

_get_connection_with: Any = () if redis.VERSION >= (5, 3, 0) else ("LPUSH",)
_ResponseError: Any = ResponseError


def push_bytes(
    client: Any, texts_by_key: Mapping[str, Sequence[bytes]], prefix: str = ""
) -> list[Any]:
    """Push texts to lists, with a command for each list, and return the answers of Redis.

    Some of the answers may be exceptions. There is no MULTI: the lists don't have to change
    together, and may be on several servers.

    Args:
        client: The client.
        texts_by_key: The texts of each list, in order.
        prefix: The prefix of all keys.

    Raises:
        Exception: The connection is lost. What was pushed isn't known then.
    """
    pool = client.connection_pool
    connection = pool.get_connection(*_get_connection_with)
    try:
        packed = (_pack(prefix + key, texts) for key, texts in texts_by_key.items())
        connection.send_packed_command(packed)
        return [_read_answer(connection) for _ in texts_by_key]
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def _pack(key: str, texts: Sequence[bytes]) -> bytes:
    """Return the command as it is sent.

    https://redis.io/docs/latest/develop/reference/protocol-spec/#sending-commands-to-a-redis-server
    """
    name = key.encode()
    parts = [b"*%d\r\n$5\r\nLPUSH\r\n$%d\r\n%b" % (len(texts) + 2, len(name), name)]
    for data in texts:
        parts += (b"\r\n$%d\r\n" % len(data), data)
    parts.append(b"\r\n")
    return b"".join(parts)


def _read_answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except _ResponseError as exc:
        return exc
