"""A server between client and Redis that loses what it is told to lose."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Lossy:
    """Passes on what clients send, but for the next transactions.

    Attributes:
        url: Where clients find it.
        plan: What happens to each of the next transactions: `lost` (Redis never gets it),
            `unanswered` (Redis makes it, the answer is lost), `late` (Redis gets it once `release`
            is called); None lets one pass. The client's connection breaks each time.
        held: What is late: a connection to Redis, and what is to go there.
    """

    def __init__(self, url):
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self.plan = []
        self.held = []
        self._late = set()
        self._answered = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._sockets = [self._listener]
        self._threads[0].start()

    def release(self):
        """Have Redis get what is late, and wait for its answer."""
        while self.held:
            server, data = self.held.pop(0)
            server.sendall(data)
            assert self._answered.acquire(timeout=20)

    def close(self):
        """End all connections."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._address)
                self._sockets += [client, server]
                for pump in (self._ask, self._answer):
                    thread = threading.Thread(target=pump, args=(client, server), daemon=True)
                    thread.start()
                    self._threads.append(thread)

    def _ask(self, client, server):
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                while b"MULTI" in data and b"EXEC" not in data:
                    data += client.recv(65536)
                what = self.plan.pop(0) if b"EXEC" in data and self.plan else None
                if what is None:
                    server.sendall(data)
                    continue
                if what == "unanswered":
                    client.shutdown(socket.SHUT_RDWR)  # before the answer can come
                    server.sendall(data)
                    return
                if what == "late":
                    self._late.add(server)
                    self.held.append((server, data))
                client.shutdown(socket.SHUT_RDWR)
                return

    def _answer(self, client, server):
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if server in self._late:
                    self._answered.release()
                else:
                    client.sendall(data)
