"""References: which text is one, and which payload one stands for."""

import pytest

from pgnotifier._log import references
from pgnotifier._log.references import Reference, parse_reference, read_payload

LONG = "x" * 8000
HIGHEST = Reference(2**64 - 1, 2**63 - 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"12 34 orders", (Reference(12, 34), b"orders")),
        (b"1 2  a\nb ", (Reference(1, 2), b" a\nb ")),
        (
            b"18446744073709551615 9223372036854775807 \xff",
            (Reference(2**64 - 1, 2**63 - 1), b"\xff"),
        ),
        (b"18446744073709551616 1 a", None),
        (b"1 9223372036854775808 a", None),
        (b"000000000000000000001 1 a", None),
        (b"1 1 " + b"a" * 64, None),
        (b"1 1 ", None),
        (b"1 1", None),
        (b"-1 1 a", None),
        ("\u0661 1 a".encode(), None),
        (b" 1 1 a", None),
        (b"", None),
    ],
)
def test_parsing(data, expected):
    """Two numbers in the bounds of the log's columns and a channel are a reference."""
    assert parse_reference(data) == expected


def test_reading(log):
    """A payload is found by its transaction, its id and its channel, if it is a long one."""
    made, other, short = log.publish("orders", LONG, LONG + "!", "short")
    xid = int(log.execute("SELECT xid::text FROM pgnotifier.log")[0][0])

    def read(channel, *reference):
        return read_payload(log.connection, channel, Reference(*reference))

    assert read("orders", xid, made) == LONG.encode()
    assert read("orders", xid, other) == LONG.encode() + b"!"
    assert read("orders", xid, short) is None
    assert read("orders", xid + 1, made) is None
    assert read("orders", xid, short + 1) is None
    assert read("others", xid, made) is None
    assert read("orders", *HIGHEST) is None


@pytest.mark.slow
def test_reading_uses_the_index(log):
    """An entry is looked up in the index, so that a reference costs little in a large log."""
    with log.connection.transaction():
        log.execute(
            "INSERT INTO pgnotifier.log (channel, payload) SELECT 'orders', repeat('x', 100)"
            " FROM generate_series(1, 100000)"
        )
    (made,) = log.publish("orders", LONG)
    log.execute("ANALYZE pgnotifier.log")
    ((xid, slot),) = log.execute("SELECT xid::text, slot FROM pgnotifier.log WHERE id = %s", made)
    explained = log.execute(f"EXPLAIN {references._FIND}", xid, made, b"orders")
    (scan,) = [line for (line,) in explained if f" on log_{slot} " in line]
    assert "Index Scan" in scan
