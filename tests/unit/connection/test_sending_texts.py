"""Texts that are sent as they are."""

import psycopg
import pytest

from pgnotifier._connection.encoding import find_encoding
from pgnotifier._connection.sending_texts import check_text, notify_all
from pgnotifier.errors import PayloadEncodingError, PayloadTooLargeError

UTF8 = find_encoding("UTF8")


def test_texts_arrive_as_they_are(pgnotifier_dsn, db):
    """Texts of JSON's syntax aren't encoded again, and their order is kept."""
    texts = ["42", '{"a": 1}', "", "é\n\x1b"]
    with psycopg.connect(pgnotifier_dsn, autocommit=True) as listening:
        listening.execute("LISTEN orders")
        with psycopg.connect(pgnotifier_dsn, autocommit=True) as connection:
            notify_all(connection, "orders", texts)
        found = listening.notifies(timeout=60, stop_after=len(texts))
        assert [one.payload for one in found] == texts


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_can_not_be_a_payload(text):
    """NUL and lone surrogates are refused."""
    with pytest.raises(PayloadEncodingError):
        check_text(text, UTF8)


def test_the_limit_counts_bytes_of_the_database():
    """7,999 bytes in the database's encoding are allowed, and the error names the way out."""
    assert check_text("é" * 7999, find_encoding("LATIN1"))
    assert check_text("x" * 7999, UTF8)
    with pytest.raises(PayloadTooLargeError, match=r"8000 bytes.*--durable"):
        check_text("é" * 4000, UTF8)
    with pytest.raises(PayloadEncodingError, match="LATIN1"):
        check_text("€", find_encoding("LATIN1"))
