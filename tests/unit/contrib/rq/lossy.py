"""A proxy in front of Redis that loses transactions or answers on request."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Lossy:
    """Forwards all that clients and Redis send, except for the transactions and scripts in `plan`.

    Attributes:
        url: The URL that clients connect to.
        plan: What happens to each of the next transactions: `lost` (Redis never receives it),
            `unanswered` (Redis executes it, the answer is lost), `late` (Redis receives it once
            `release` is called); each breaks the client's connection. None forwards it.
        held: The late transactions: pairs of a connection to Redis and the data to send to it.
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
        """Send the late transactions to Redis, and wait for its answers."""
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
                is_complete = b"EXEC" in data or b"EVALSHA" in data
                what = self.plan.pop(0) if is_complete and self.plan else None
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
