"""Have a forked child let go of its parent's connections without ending the parent's sessions."""

import os
import weakref
from typing import Any

import psycopg
from psycopg import pq

from pgnotifier._runtime.process import renew_in_children

_inherited: list[psycopg.Connection[Any]] = []


class _Connections(weakref.WeakSet[psycopg.Connection[Any]]):
    """The connections that this process has made itself, without those that it has inherited."""

    def renew(self) -> None:
        """Let go of all of them, in a forked child."""
        for connection in tuple(self):
            _let_go(connection)
        self.clear()


_own = _Connections()
# Registered before any object that has a connection, so that a child renews this first. When those
# objects then drop their connections, none is finalized.
renew_in_children(_own)


def keep_from_children(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Have each child that is forked from now on let go of a connection; return the connection."""
    _own.add(connection)
    return connection


def _let_go(connection: psycopg.Connection[Any]) -> None:
    """Let go of a parent's connection without sending anything to the server.

    Closing it through libpq would end the parent's session, and keeping the descriptor open
    would keep that session alive after the parent's death. So the descriptor is redirected to
    /dev/null, and the object is kept from being finalized.
    """
    _inherited.append(connection)
    if connection.pgconn.status == pq.ConnStatus.OK:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, connection.pgconn.socket, inheritable=False)
        os.close(null)
