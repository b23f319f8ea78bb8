"""Reading payloads for references: on one connection, which is replaced if it is lost."""

import threading

import pytest

from pgnotifier._connection.parameters import Parameters, make_parameters
from pgnotifier._durable import payload_reader
from pgnotifier._durable.payload_reader import PayloadReader
from pgnotifier._log.references import Reference
from pgnotifier.errors import ConnectionFailedError, LogNotInstalledError, PgNotifierError

LONG = "x" * 8000
ANY = Reference(3, 1)


@pytest.fixture
def reader(pgnotifier_dsn):
    """Yield a reader of the test's database, closed afterwards."""
    reader = PayloadReader(Parameters(pgnotifier_dsn), 60.0)
    yield reader
    reader.close()


@pytest.fixture
def reference(log):
    """Publish a long payload, and return a reference to it."""
    log.publish("orders", LONG)
    xid, number = log.execute("SELECT xid::text, id FROM pgnotifier.log")[0]
    return Reference(int(xid), number)


def test_one_connection(log, reader, reference):
    """All threads read on one connection; `close` ends it, and a later read makes a new one."""
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(reader.read("orders", reference)))
        for _ in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == [LONG.encode()] * 8
    assert len(log.listening()) == 1
    reader.close()
    assert reader.read("orders", reference) == LONG.encode()


def test_a_lost_connection(log, reader, reference, eventually):
    """A connection that has ended meanwhile is replaced without an error."""
    reader.read("orders", reference)
    assert log.terminate() == 1
    eventually(lambda: log.listening() == [])
    assert reader.read("orders", reference) == LONG.encode()


@pytest.mark.slow
def test_without_a_log(pgnotifier_dsn, reader):
    """Without a log, each read raises, and the connection is kept."""
    for _ in range(2):
        with pytest.raises(LogNotInstalledError):
            reader.read("orders", ANY)


def test_without_a_server(monkeypatch):
    """While nobody can connect, an attempt is made now and then, and other reads fail at once."""
    attempts = []

    def supply():
        attempts.append(1)
        return "host=/nowhere dbname=none"

    reader = PayloadReader(make_parameters(supply), 60.0)
    for _ in range(3):
        with pytest.raises(ConnectionFailedError, match="/nowhere"):
            reader.read("orders", ANY)
    assert len(attempts) == 1
    monkeypatch.setattr(payload_reader, "PAUSE", -1.0)
    reader.renew()
    for _ in range(3):
        with pytest.raises(PgNotifierError):
            reader.read("orders", ANY)
    assert len(attempts) == 4


def test_a_server_that_does_not_answer(log, pgnotifier_dsn, reference):
    """A query that takes too long fails, so that nothing waits for it for ever."""
    reader = PayloadReader(Parameters(pgnotifier_dsn), 0.2)
    with log.connection.transaction():
        log.execute("LOCK TABLE pgnotifier.log IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(ConnectionFailedError, match="no answer within"):
            reader.read("orders", reference)
        with pytest.raises(ConnectionFailedError, match="no answer within"):
            reader.read("orders", reference)
    reader.close()
