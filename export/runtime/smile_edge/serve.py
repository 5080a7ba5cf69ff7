"""A long-running reader: local HTTP with /predict, /health and /metrics. Standard library only.

What a request holds is never logged, kept or told to anybody else, and no answer names a path of this machine.

Each connection has a thread of its own, which receives; one thread reads scans and runs the engine, since neither OpenGL nor
CUDA likes to move between threads. What a sender can hold is limited: seconds, bytes, and requests at once. So is what a
scan can hold: who has waited READING seconds is told so, and a reading that does not end makes /health say it.
"""

import contextlib
import http.server
import io
import json
import logging
import os
import re
import signal
import socket
import socketserver
import sys
import tempfile
import threading
import time
import warnings
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .metrics import Metrics
from .model import ExpressionReader
from .views import read_views
from .worker import MEMORY, NoAnswer, Worker, scratch_folder

LARGEST = 32 << 20  # bytes of a request: 600 frames of small views, or a scan of 300,000 vertices as text
SECONDS = 20.0  # that a request may take to arrive
READING = 120.0  # seconds that a request may wait for its turn and its answer
CONNECTIONS = 64  # at once
REQUESTS = 16  # to /predict at once, from the first byte of the body to the answer
LINE = 1 << 13  # bytes of the first line
RETRY = 1  # seconds after which one that was turned away may come again
LINGER = (
    1.0  # seconds in which the rest of a refused body is thrown away, so that its sender reads the answer
)
METHODS = {"/predict": "POST", "/health": "GET", "/metrics": "GET"}
_BODY = "send views as numpy.save writes them, or a scan with ?name=face.obj"
_SUFFIX = re.compile(r"(\.abs)?\.[a-z0-9]{1,8}\Z")
_ADVICE = {
    400: "this is no HTTP request that is understood here",
    404: f"there is nothing here: ask {', '.join(f'{method} {path}' for path, method in METHODS.items())}",
    408: "the request did not arrive in time: send it faster, or a smaller one",
    411: "say how long the body is: send Content-Length, not chunks",
    405: "this takes another method: see Allow",
    413: f"the body is too large: send at most {LARGEST} bytes, fewer frames or the face alone",
    414: "the request line is too long: give a shorter name",
    500: "the reading failed for a reason of this program's own",
    503: "too many requests at once: come again later",
}


class Refusal(Exception):
    """A request that is answered with an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str = "") -> None:
        super().__init__(sentence or _ADVICE.get(status, HTTPStatus(status).phrase))
        self.status = status


class Server(socketserver.ThreadingTCPServer):
    """`serve_forever()` until `shutdown()`; then `close()`."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(
        self,
        reader: ExpressionReader,
        host: str,
        port: int,
        *,
        seconds: float = SECONDS,
        reading: float = READING,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)
        self.reader, self.metrics = reader, Metrics()
        self.seconds = seconds
        self.healthy = True  # the engine answered when it was asked last
        self.requests = threading.BoundedSemaphore(REQUESTS)
        self._connections = threading.BoundedSemaphore(CONNECTIONS)
        self._folder = scratch_folder()
        self.place = Path(self._folder.name).parent
        self.worker = Worker(self._predict, reading)

    def scratch(self) -> "tempfile.TemporaryDirectory[str]":
        """A folder for the body of one request, gone with its answer."""
        return tempfile.TemporaryDirectory(dir=self._folder.name)

    def predict(self, path: Path) -> dict[str, Any]:
        """The answer for one file, in its turn. Raises Refusal when there is nothing to read in it, or no answer in time."""
        try:
            return self.worker(path)
        except NoAnswer as error:
            raise Refusal(503, str(error)) from None

    def _predict(self, path: Path) -> dict[str, Any]:
        reader = self.reader
        try:
            views, milliseconds = read_views(path, reader.bundle, reader.manifest["preprocessing"])
        except ValueError as error:
            sentence = (
                str(error).replace(f"{path.parent}{os.sep}", "").replace(str(reader.bundle), "the bundle")
            )
            raise Refusal(422, sentence) from None
        try:
            answer = reader.predict(views)
        except MemoryError:
            raise
        except Exception:
            self.healthy = False  # a GPU that failed once fails until the program is started again
            raise
        self.healthy = True
        return {**answer, "milliseconds": {**milliseconds, **answer["milliseconds"]}, **reader.provenance}

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._connections.acquire(blocking=False):
            request.settimeout(LINGER)
            request.sendall(
                b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
            )
            self.metrics.answered(503, None)
            with contextlib.suppress(OSError):  # closed with bytes unread, the answer could be lost
                request.setblocking(False)
                request.recv(1 << 16)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The kind of an error and nothing else: a traceback can hold what was sent."""
        kind = sys.exc_info()[0]
        if kind is not None and not issubclass(kind, OSError):  # a sender who went away is no news
            print(f"a request failed: {kind.__name__}", file=sys.stderr, flush=True)

    def close(self, *, grace: float = 5.0) -> bool:
        """Let running predictions finish, `grace` seconds at most, and leave nothing behind; False where one did not finish."""
        end = time.monotonic() + grace
        for _ in range(REQUESTS):
            self.requests.acquire(timeout=max(0.0, end - time.monotonic()))
        self.server_close()
        finished = self.worker.stop(max(0.1, end - time.monotonic()))
        self._folder.cleanup()
        return finished


class _Timed(io.RawIOBase):
    """What a sender sends, until a deadline: dripping single bytes gains nothing."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._end = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request a connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Timed(self.connection, self.server.seconds))
        self.command = self.path = ""
        self.seconds: float | None = None  # of the prediction
        self.counted = False  # among the requests at once
        self.answered = False  # or begun to be

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            if self.counted:
                self.server.requests.release()

    def handle(self) -> None:
        try:
            self.raw_requestline = self.rfile.readline(LINE + 1)
            if len(self.raw_requestline) > LINE:
                raise Refusal(414)
            if self.raw_requestline and self.parse_request():
                self._answer(*self._route())
        except TimeoutError:
            if self.answered:  # the sender does not read: nothing may go into the middle of its answer
                raise
            self._refuse(Refusal(408))
        except Refusal as refusal:
            self._refuse(refusal)
        except OSError:
            raise  # the sender went away: nobody to answer
        except Exception:
            self.server.handle_error(self.request, None)
            self._refuse(Refusal(500))

    def _route(self) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer."""
        try:
            url = urlsplit(self.path)
        except ValueError:
            raise Refusal(400) from None
        if url.path not in METHODS:
            raise Refusal(404)
        if self.command != METHODS[url.path]:
            raise Refusal(405)
        reader = self.server.reader
        if url.path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", self.server.metrics.text(reader).encode()
        if url.path == "/health":
            status = "ok" if self.server.healthy else "the engine fails: start the program again"
            if self.server.worker.stuck():
                status = "a reading does not end: start the program again"
            answer = {"status": status, **reader.provenance, "labels": list(reader.labels)}
            return 200 if status == "ok" else 500, *_json(answer)
        return 200, *_json(self._predict(url.query))

    def _predict(self, query: str) -> dict[str, Any]:
        length, suffix = self._length(), _suffix(query)
        self.counted = self.server.requests.acquire(blocking=False)
        if not self.counted:
            raise Refusal(503)
        try:
            with self.server.scratch() as folder:
                path = Path(folder) / f"scan{suffix}"
                self._receive(path, length)
                start = time.perf_counter()
                answer = self.server.predict(path)
                self.seconds = time.perf_counter() - start
                return answer
        except MemoryError:
            raise Refusal(413) from None
        except (TimeoutError, ConnectionError):
            raise
        except OSError:  # the scratch folder is full
            raise Refusal(503) from None

    def _length(self) -> int:
        given = self.headers.get_all("Content-Length", [])
        if not given or "Transfer-Encoding" in self.headers:
            raise Refusal(411)
        if len(given) != 1 or not re.fullmatch("[0-9]{1,18}", given[0]):
            raise Refusal(400)
        if int(given[0]) > LARGEST:
            raise Refusal(413)
        if int(given[0]) == 0:
            raise Refusal(400, f"the body is empty: {_BODY}")
        return int(given[0])

    def _receive(self, path: Path, length: int) -> None:
        """The body, straight into its file."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        with path.open("wb") as file:
            while length:
                part = self.rfile.read1(min(length, 1 << 16))
                if not part:
                    raise Refusal(400, "the body ended before its Content-Length: send it again")
                if path.suffix == ".npy" and not file.tell() and not b"\x93NUMPY".startswith(part[:6]):
                    raise Refusal(400, f"the body is no .npy: {_BODY}")
                length -= file.write(part)

    def handle_expect_100(self) -> bool:
        return True  # the sender waits until the headers were found good

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `parse_request` refuses; its own sentence would repeat what was sent."""
        self._refuse(Refusal(int(code)))

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing: a request line can hold a name."""

    def _answer(self, status: int, kind: str, body: bytes, headers: str = "") -> None:
        self.answered = True
        self.server.metrics.answered(status, self.seconds)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f"{headers}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        self.connection.settimeout(self.server.seconds)
        self.wfile.write(head.encode("ascii") + body)

    def _refuse(self, refusal: Refusal) -> None:
        headers = {405: f"Allow: {self._allowed()}\r\n", 503: f"Retry-After: {RETRY}\r\n"}
        self._answer(refusal.status, *_json({"error": str(refusal)}), headers.get(refusal.status, ""))
        # Closed with bytes unread, the connection would be reset and the answer lost.
        end = time.monotonic() + LINGER
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(1 << 16):
                    break

    def _allowed(self) -> str:
        return METHODS.get(self.path.split("?")[0], "GET, POST")


def _json(answer: dict[str, Any]) -> tuple[str, bytes]:
    return "application/json", json.dumps(answer).encode() + b"\n"


def _suffix(query: str) -> str:
    """Of the file that a scan came in, by ?name=face.obj; that of prepared views without."""
    names = parse_qs(query).get("name", ["views.npy"])
    found = _SUFFIX.search(names[-1].lower())
    if found is None:
        raise Refusal(400, "?name= has no suffix: give the name of the scan's file, such as face.obj")
    return found[0]


def parse_address(text: str) -> tuple[str, int]:
    """[HOST:]PORT -> host, this machine alone unless said, and port; 0 for any that is free. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"--serve {text}: give [HOST:]PORT, such as 8080 or 0.0.0.0:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


def serve(reader: ExpressionReader, address: str) -> int:
    """Answer requests until SIGTERM or Ctrl-C; exit code 0. Raises ValueError when nothing can listen at the address."""
    host, port = parse_address(address)
    warnings.simplefilter("ignore")  # other people's packages tell what they read
    logging.disable()
    try:
        server = Server(reader, host, port)
    except OSError as error:
        raise ValueError(
            f"nothing can listen at {host}:{port} ({error.strerror}): choose another --serve"
        ) from None

    def stop(*_: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # a second one ends at once
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    host, port = str(server.server_address[0]), server.server_address[1]
    print(
        f"listening on http://{f'[{host}]' if ':' in host else host}:{port} ({reader.engine.name}); what is sent lies in "
        f"{server.place} while it is read",
        file=sys.stderr,
    )
    if server.place != MEMORY:
        print(f"{server.place} may be on a disk: mount {MEMORY} where no face may touch one", file=sys.stderr)
    if not host.startswith(("127.", "::1")):
        print("whoever reaches this machine is answered, unencrypted and without a password", file=sys.stderr)
    sys.stderr.flush()
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        finished = server.close()
    if not finished:  # Python would end beneath a thread that still computes
        sys.stderr.flush()
        os._exit(0)
    return 0
