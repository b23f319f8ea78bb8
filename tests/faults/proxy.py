"""A TCP proxy in front of a server, which simulates a faulty network."""

import contextlib
import socket
import threading
from pathlib import Path

from psycopg.conninfo import make_conninfo


class Proxy:
    """Forwards bytes; on command it swallows them, or cuts the connection at certain bytes.

    It connects to the server's unix socket, which embedded servers have.
    """

    def __init__(self, params):
        self.frozen = False  # swallow everything, answer nothing
        self.cut_at = None  # bytes from the client at which its connection is cut
        self.accepted = 0
        self._target = str(Path(params["host"]) / f".s.PGSQL.{params['port']}")
        self._sockets = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.dsn = make_conninfo(
            host="127.0.0.1",
            port=port,
            user=params["user"],
            dbname=params["dbname"],
            sslmode="disable",
            gssencmode="disable",
        )
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join()
        for one in self._sockets:
            _shut(one)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            server = socket.socket(socket.AF_UNIX)
            self._sockets += [client, server]
            try:
                server.connect(self._target)
            except OSError:
                _shut(client)
                continue
            for pair in ((client, server), (server, client)):
                thread = threading.Thread(target=self._pump, args=(*pair, pair[0] is client))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source, target, from_client):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.frozen:
                    continue
                if from_client and self.cut_at and self.cut_at in data:
                    break
                target.sendall(data)
        if not self.frozen:
            _shut(source)
            _shut(target)


def _shut(one):
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
