"""Connections that a forked child inherits: it lets go of them without ending the sessions."""

import os
import weakref
from typing import Any

import psycopg
from psycopg import pq

from pgnotifier._runtime.process import renew_in_children

_inherited: list[psycopg.Connection[Any]] = []


class _Connections(weakref.WeakSet[psycopg.Connection[Any]]):
    """The connections of this process, but none that it has inherited."""

    def renew(self) -> None:
        """Let go of all, in a forked child."""
        for connection in tuple(self):
            _let_go(connection)
        self.clear()


_own = _Connections()
# Registered before anything that has a connection, so that in a child it is renewed before these
# drop their connections, and none is finalized.
renew_in_children(_own)


def keep_from_children(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Have each child that is forked from now on let go of a connection; return the connection."""
    _own.add(connection)
    return connection


def _let_go(connection: psycopg.Connection[Any]) -> None:
    """Let go of a parent's connection without sending anything to the server.

    Closing it through libpq would end the parent's session, and keeping the descriptor open
    would keep that session alive after the parent's death. So the descriptor's number is put
    to other use, and the object is kept so that its finalizer touches neither.
    """
    _inherited.append(connection)
    if connection.pgconn.status == pq.ConnStatus.OK:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, connection.pgconn.socket, inheritable=False)
        os.close(null)
