"""The server of the health port: answers that fail or never come, and too many clients."""

import errno
import http.client
import socket
import threading
from concurrent.futures import Future
from http import HTTPStatus

import pytest

from pgnotifier._health import http_server as answering
from pgnotifier._health.http_server import Answer, HttpServer


class Answers:
    """The answers to paths, which the test sets."""

    def __init__(self):
        self.futures = {}
        self.port = None

    def __call__(self, path):
        return self.futures.setdefault(path, Future())

    def give(self, path, body=b"{}"):
        self(path).set_result(Answer(HTTPStatus.OK, body))

    def ask(self, path):
        """Return the status and the body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def connect(self, path):
        """Return a connection that has requested a path."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=15)
        client.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        return client


@pytest.fixture
def answers(eventually):
    """Yield the answers of a running server."""
    answers = Answers()
    listening = socket.create_server(("127.0.0.1", 0))
    answers.port = listening.getsockname()[1]
    server = HttpServer(listening, answers)
    server.start()
    yield answers
    server.stop()
    eventually(lambda: "pgnotifier-health" not in [one.name for one in threading.enumerate()])


def test_stopping_waits_for_nobody(free_port):
    """`stop` frees the port at once, even if the thread is still busy."""
    begun, go_on = threading.Event(), threading.Event()

    def find_answer(path):
        begun.set()
        assert go_on.wait(20)
        return Future()

    first = HttpServer(socket.create_server(("127.0.0.1", free_port)), find_answer)
    first.start()
    with socket.create_connection(("127.0.0.1", free_port), timeout=15) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert begun.wait(20)
        first.stop()
        socket.create_server(("127.0.0.1", free_port)).close()
        assert not go_on.is_set()
        go_on.set()
        first._thread.join(20)
        assert not first._thread.is_alive()


def test_an_answer_that_fails(answers, caplog):
    """An exception is logged, and the client gets a 500 without its text."""
    answers("/").set_exception(ValueError("secret"))
    assert answers.ask("/") == (500, b'{"error": "Internal Server Error"}\n')
    assert str(caplog.records[-1].exc_info[1]) == "secret"


def test_an_answer_that_does_not_come(answers, monkeypatch):
    """If an answer doesn't come in time, the client gets a 503, and others get their answers."""
    monkeypatch.setattr(answering, "ANSWER_TIMEOUT", 0.3)
    answers.give("/other")
    assert answers.ask("/") == (503, b'{"error": "Service Unavailable"}\n')
    assert answers.ask("/other") == (200, b"{}")


def test_many_who_wait(answers):
    """With too many connections, idle ones are closed first, then those that wait longest."""
    idle = socket.create_connection(("127.0.0.1", answers.port), timeout=15)
    waiting = [answers.connect("/") for _ in range(answering.MAX_CONNECTIONS)]
    with idle:
        assert idle.recv(1) == b""
    answers.give("/other")
    assert answers.ask("/other")[0] == 200  # the first waiting client was disconnected
    answers.give("/")
    responses = []
    for client in waiting:
        with client:
            responses.append(client.recv(15))
    assert responses == [b"", *[b"HTTP/1.1 200 OK"] * (answering.MAX_CONNECTIONS - 1)]


def test_a_client_that_sends_more(answers, eventually):
    """Anything that a client sends after its request is ignored."""
    with answers.connect("/") as client:
        client.sendall(b"GET /other HTTP/1.1\r\n\r\n" * 10)
        eventually(lambda: "/" in answers.futures)
        answers.give("/", b'"first"')
        received = b""
        while more := client.recv(65536):
            received += more
    assert received.endswith(b'\r\n\r\n"first"')
    assert set(answers.futures) == {"/"}


def test_no_descriptor_is_left(answers, monkeypatch):
    """Without free descriptors, the oldest connection is closed, or else the server waits."""
    refusals = []
    accept = socket.socket.accept

    def refuse(self):
        if refusals:
            raise refusals.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", refuse)
    answers.give("/")
    refusals += [OSError(errno.EMFILE, "Too many open files")] * 2
    assert answers.ask("/")[0] == 200
    with socket.create_connection(("127.0.0.1", answers.port), timeout=15) as idle:
        assert answers.ask("/")[0] == 200  # so `idle` is accepted as well
        refusals += [OSError(errno.EMFILE, "Too many open files")]
        assert answers.ask("/")[0] == 200
        assert idle.recv(1) == b""
