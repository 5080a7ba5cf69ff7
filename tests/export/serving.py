"""A server of this process, and senders that keep to HTTP or do not."""

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection

import numpy as np

from export.runtime.smile_edge import ExpressionReader, serve


@contextlib.contextmanager
def serving(reader: ExpressionReader, **options: float) -> Iterator[serve.Server]:
    """A server of this process that waits one second for a sender."""
    server = serve.Server(reader, "127.0.0.1", 0, **{"seconds": 1.0, **options})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.close()
        thread.join()


def npy(views: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, views)
    return file.getvalue()


def ask(server: serve.Server, method: str, path: str, body=None, **headers: str):
    """Status, headers and body of the answer; JSON as what it says."""
    connection = HTTPConnection(*server.server_address[:2], timeout=20)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    data = reply.read()
    connection.close()
    kind = reply.headers["Content-Type"]
    return reply.status, reply.headers, json.loads(data) if kind == "application/json" else data.decode()


def send(server: serve.Server, *parts: bytes, pause: float = 0.0) -> bytes:
    """What comes back for raw bytes."""
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def lives(server: serve.Server, views: np.ndarray) -> bool:
    return ask(server, "POST", "/predict", npy(views))[0] == 200


def until(condition, seconds: float = 10.0) -> None:
    """Waits; fails where the condition does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
