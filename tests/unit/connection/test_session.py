"""Sessions: answers that arrive in pieces, and the queries that listen."""

from types import SimpleNamespace

import pytest
from psycopg import pq

from pgnotifier import ListenRefusedError
from pgnotifier._connection.session import Session, listen_query


class Pieces:
    """A libpq connection on which a query's answer arrives in pieces."""

    nonblocking = socket = backend_pid = 0
    notifies = None

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    @property
    def pgconn(self):
        """Return itself, in the place of psycopg's libpq connection."""
        return self

    def parameter_status(self, name):
        """Return the encoding."""
        return b"UTF8"

    def send_query(self, query):
        """Accept a query."""

    def is_busy(self):
        """Return True once between two pieces."""
        return bool(self.pieces and self.pieces[0] == "pause" and self.pieces.pop(0))

    def get_result(self):
        """Return the next result, or None at the end."""
        return self.pieces.pop(0) if self.pieces else None


def test_a_refusal_in_pieces():
    """A refusal that arrives in pieces is raised once, and the next query works."""
    error = SimpleNamespace(
        status=pq.ExecStatus.FATAL_ERROR,
        get_error_message=lambda encoding: "not here",
        error_field=lambda field: b"ERROR",
    )
    connection = Pieces("pause", error, "pause")
    session = Session(connection)
    session.send(b"LISTEN a")
    assert not session.answered()
    assert not session.answered()
    with pytest.raises(ListenRefusedError, match="not here"):
        session.answered()
    session.send(b"LISTEN b")
    assert session.answered()


def test_listen_query():
    """Names are quoted as identifiers, all in one query."""
    assert listen_query(["a", 'b"; drop table x; --', "Ü"]) == (
        'LISTEN "a";LISTEN "b""; drop table x; --";LISTEN "Ü"'.encode()
    )
    assert listen_query(["a"], "UNLISTEN") == b'UNLISTEN "a"'
    assert listen_query([]) == b""
