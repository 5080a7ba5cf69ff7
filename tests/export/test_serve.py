"""`run.py --serve`: right answers, a 4xx for whatever is wrong, and nothing told of what was sent."""

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge import serve
from export.runtime.smile_edge.metrics import resident_bytes
from export.runtime.smile_edge.views import read_views
from tests.export.serving import ask, lives, npy, send, serving


@pytest.fixture
def server(reader) -> Iterator[serve.Server]:
    with serving(reader) as server:
        yield server


# --- answers ------------------------------------------------------------------------------------------------------


def test_the_answer_is_that_of_the_program(server, reader, golden):
    status, headers, answer = ask(server, "POST", "/predict", npy(golden["views"]))
    expected = reader.predict(golden["views"])
    assert status == 200
    assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    assert [f["expression"] for f in answer["frames"]] == [f["expression"] for f in expected["frames"]]
    assert set(answer["milliseconds"]) == {"read", "views", "engine"}
    assert {key: answer[key] for key in reader.provenance} == reader.provenance
    assert headers["Cache-Control"] == "no-store" and "Server" not in headers


@pytest.mark.parametrize("name", ["colour.obj", "colour.ply", "colour.glb"])
def test_a_raw_scan(server, reader, faces, manifest, name):
    body = (faces / name).read_bytes()
    status, _, answer = ask(server, "POST", f"/predict?name=Jane%20Doe/{name.upper()}", body)
    assert status == 200, answer
    views, _ = read_views(faces / name, reader.bundle, manifest["preprocessing"])
    assert answer["probabilities"] == pytest.approx(reader.predict(views)["probabilities"], abs=1e-6)
    assert "Doe" not in json.dumps(answer)


def test_health_and_metrics(server, reader, golden):
    status, _, health = ask(server, "GET", "/health")
    assert (status, health["status"], health["round"]) == (200, "ok", 3)
    assert health["labels"] == list(reader.labels)
    for _ in range(3):
        assert lives(server, golden["views"][0])
    ask(server, "POST", "/predict", b"junk")
    status, headers, text = ask(server, "GET", "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples['smile_requests_total{status="200"}'] == "4"
    assert samples['smile_requests_total{status="400"}'] == "1"
    assert samples["smile_predict_seconds_count"] == samples['smile_predict_seconds_bucket{le="+Inf"}'] == "3"
    buckets = [int(v) for k, v in samples.items() if k.startswith("smile_predict_seconds_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == 3
    assert 0 < float(samples["smile_predict_seconds_sum"]) < 10
    assert int(samples["process_resident_memory_bytes"]) == pytest.approx(resident_bytes(), rel=0.1)
    assert samples["smile_model_round"] == "3"
    for line in text.splitlines():
        assert re.fullmatch(r'# TYPE \w+ \w+|\w+(\{(\w+="[^"\\]*",?)+\})? [0-9.+e-]+', line), line


def test_curl_waits_for_leave_to_send_a_large_body(server, golden):
    body = npy(golden["views"][0])
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode()
    reply = send(server, head, body, pause=0.1)
    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    reply = send(server, head.replace(b"/predict", b"/elsewhere"))
    assert reply.startswith(b"HTTP/1.1 404")


# --- refusals -----------------------------------------------------------------------------------------------------

GOOD = np.full((3, 4, 64, 64), 9, np.uint8)


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/predict", b"", 400, "the body is empty"),
        ("/predict", b"junk", 400, "no .npy"),
        ("/predict", b"\xff\xd8\xff\xe0" * 99, 400, "no .npy"),
        ("/predict", b"\x93NUMPY", 422, "cut short"),
        ("/predict", npy(GOOD)[:5000], 422, "cut short"),
        ("/predict", npy(GOOD[..., :32]), 422, "shape (3, 4, 64, 32)"),
        ("/predict", npy(GOOD * 0), 422, "every view is empty"),
        ("/predict", npy(GOOD.astype(int)), 422, "int64"),
        ("/predict", npy(GOOD).replace(b"|u1", b"|O8"), 422, "Python objects"),
        (
            "/predict",
            npy(GOOD).replace(b"(3, 4, 64, 64), }         ", b"(99999999999999, 4, 64), }"),
            422,
            "",
        ),
        ("/predict?name=face.obj", b"v 0 0 0\n", 422, "scan.obj"),
        ("/predict?name=face.ply", b"junk" * 99, 422, "scan.ply"),
        ("/predict?name=face.jpg", b"\xff\xd8\xff", 422, "are not read"),
        ("/predict?name=../../etc/passwd", b"x", 400, "no suffix"),
        ("/predict?name=", b"x", 400, "no .npy"),
        ("/predict?name=a.%00", b"x", 400, "no suffix"),
        ("/predict?name=a.obj%0a", b"x", 400, "no suffix"),
        ("/", b"x", 404, "POST /predict"),
        ("/predict/", b"x", 404, "POST /predict"),
        ("/health", b"x", 405, "Allow"),
        ("/metrics", b"x", 405, "Allow"),
    ],
)
def test_what_cannot_be_read(server, reader, golden, path, body, status, reason):
    found, _, answer = ask(server, "POST", path, body)
    assert (found, set(answer)) == (status, {"error"}), answer
    assert reason in answer["error"]
    assert len(answer["error"].splitlines()) == 1
    for place in (str(reader.bundle), server._folder.name, "/dev", "/tmp", "etc/passwd", "allow_pickle"):
        assert place not in answer["error"]
    assert lives(server, golden["views"][0])
    assert list(Path(server._folder.name).iterdir()) == []  # nothing of a request stays


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"])
def test_another_method(server, method):
    status, headers, _ = ask_raw(server, method)
    assert (status, headers["Allow"]) == (405, "POST")


def ask_raw(server: serve.Server, method: str):
    reply = send(server, f"{method} /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    head, _, body = reply.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /predict HTTP/1.1\r\nHost: x\r\n\r\n", 411),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 411),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\nx", 411),
        (b"POST /predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /predict HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (b"GET /" + b"x" * 10000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * 70000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /health HTTP/9.9\r\n\r\n", 505),
        (b"GET\r\n\r\n", 400),
        (b"GET http://[/health HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 secret\r\n\r\n", 400),
    ],
)
def test_what_is_no_request(server, golden, head, status):
    reply = send(server, head)
    assert reply.startswith(f"HTTP/1.1 {status} ".encode()), reply[:200]
    assert b"secret" not in reply and b"<html" not in reply.lower()
    assert lives(server, golden["views"][0])


def test_a_body_that_is_really_too_large(server, golden):
    body = b"\x93NUMPY" + bytes(serve.LARGEST)
    status, _, answer = ask(server, "POST", "/predict", body)
    assert status == 413 and str(serve.LARGEST) in answer["error"]
    assert lives(server, golden["views"][0])


@pytest.mark.parametrize(
    "parts",
    [
        [b"POST /predict HTTP/1.1\r\nContent-Length: 90\r\n\r\n", *[b"\x93"] + [b"N"] * 30],
        [b"POST /predict HTTP/1.1\r\nContent-Length: 90\r\n\r\n"],
        [b"POST /predict HTTP/1.1\r\n", *[b"X: y\r\n"] * 30],
        [b"P", *[b"O"] * 30],
    ],
    ids=["drips a body", "sends no body", "drips headers", "drips a request line"],
)
def test_a_slow_sender(server, golden, parts):
    """Single bytes in time do not make the whole in time."""
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:
        start = time.monotonic()
        connection.settimeout(0.1)
        reply = b""
        for part in [*parts, *[b""] * 30]:
            try:
                connection.sendall(part)
                reply = connection.recv(1 << 16)
                break
            except TimeoutError:
                continue
        assert reply.startswith(b"HTTP/1.1 408 "), reply
        assert 0.9 < time.monotonic() - start < 2.5
        assert lives(server, golden["views"][0])  # while that one is still there


def test_a_refused_sender_who_stays_is_counted_once(server):
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:
        connection.sendall(b"GET\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
        time.sleep(serve.LINGER + 0.3)
    text = ask(server, "GET", "/metrics")[2]
    assert 'status="400"} 1' in text and 'status="408"' not in text


def test_a_sender_who_does_not_read_gets_no_second_answer(server, reader, monkeypatch):
    """What the kernel takes of an answer has gone out with its 200: a 408 would end up in the middle of it."""
    monkeypatch.setattr(serve._Handler, "_route", lambda self: (200, "text/plain", bytes(64 << 20)))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        connection.connect(server.server_address[:2])
        connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        time.sleep(server.seconds + 0.5)
        connection.settimeout(20)
        found = b""
        while part := connection.recv(1 << 20):
            found += part
    assert found.startswith(b"HTTP/1.1 200 ") and found.count(b"HTTP/1.1") == 1
    assert len(found) < 64 << 20  # it was cut off
    text = server.metrics.text(reader)
    assert 'status="200"} 1' in text and 'status="408"' not in text


def test_a_sender_who_goes_away(server, golden, capfd):
    for parts in ([b""], [b"POST"], [b"POST /predict HTTP/1.1\r\nContent-Length: 90\r\n\r\n\x93NUM"]):
        with socket.create_connection(server.server_address[:2]) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
            connection.sendall(parts[0])
    half = b"POST /predict HTTP/1.1\r\nContent-Length: 90\r\n\r\n\x93NUM"
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:
        connection.sendall(half)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400 ")
    assert lives(server, golden["views"][0])
    assert capfd.readouterr() == ("", "")


def test_a_fault_of_our_own_tells_its_kind_alone(server, reader, golden, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        patch.setattr(reader, "predict", lambda views: {}["the name of a patient"])
        status, _, answer = ask(server, "POST", "/predict", npy(golden["views"]))
        assert ask(server, "GET", "/health")[0] == 500
    assert (status, list(answer)) == (500, ["error"])
    assert "patient" not in json.dumps(answer)
    assert capfd.readouterr() == ("", "a request failed: KeyError\n")
    assert lives(server, golden["views"][0])
    assert ask(server, "GET", "/health")[0] == 200


def test_no_room_for_a_body(server, golden, monkeypatch):
    def full(path, *_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(serve._Handler, "_receive", lambda self, path, length: full(path))
        status, headers, _ = ask(server, "POST", "/predict", npy(golden["views"]))
    assert (status, headers["Retry-After"]) == (503, "1")
    assert lives(server, golden["views"][0])


def test_no_memory_for_an_answer(server, reader, golden, monkeypatch):
    def full(views):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(reader, "predict", full)
        assert ask(server, "POST", "/predict", npy(golden["views"]))[0] == 413
    assert lives(server, golden["views"][0])
