"""`run.py --serve` under load and as a program: many at once, readings that do not end, and a service that lives on and does not grow."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge import main, serve, worker
from tests.export.serving import ask, lives, npy, serving, until


@pytest.fixture
def server(reader) -> Iterator[serve.Server]:
    with serving(reader) as server:
        yield server


# --- many at once -------------------------------------------------------------------------------------------------


def test_many_at_once_all_get_their_own_answer(server, reader, golden):
    expected = [reader.predict(views)["probabilities"] for views in golden["views"]]

    def one(number: int) -> bool:
        status, _, answer = ask(server, "POST", "/predict", npy(golden["views"][number % 5]))
        return status == 200 and answer["probabilities"] == pytest.approx(expected[number % 5], abs=1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(80)))


def test_too_many_at_once(server, reader, golden, monkeypatch):
    gate, predict = threading.Event(), reader.predict
    monkeypatch.setattr(reader, "predict", lambda views: gate.wait(20) and predict(views))
    with ThreadPoolExecutor(serve.REQUESTS) as pool:
        waiting = [
            pool.submit(ask, server, "POST", "/predict", npy(golden["views"][0]))
            for _ in range(serve.REQUESTS)
        ]
        until(lambda: not server.requests._value)
        status, headers, answer = ask(server, "POST", "/predict", npy(golden["views"][0]))
        assert (status, headers["Retry-After"], "too many" in answer["error"]) == (503, "1", True)
        assert ask(server, "GET", "/health")[0] == 200  # is not kept waiting
        gate.set()
        assert [request.result()[0] for request in waiting] == [200] * serve.REQUESTS
    assert lives(server, golden["views"][0])


def test_too_many_connections(server, golden, monkeypatch):
    idle = [socket.create_connection(server.server_address[:2]) for _ in range(serve.CONNECTIONS)]
    accept, shutdown, unread = server.get_request, server.shutdown_request, []

    def look(request: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            unread.append(request.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        shutdown(request)

    try:
        until(lambda: not server._connections._value)
        # The request is there before it is refused: closed with bytes unread, the connection would be reset.
        monkeypatch.setattr(server, "shutdown_request", look)
        monkeypatch.setattr(server, "get_request", lambda: (accept(), time.sleep(0.2))[0])
        with socket.create_connection(server.server_address[:2], timeout=5) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            reply = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        assert reply.startswith(b"HTTP/1.1 503 ") and reply.endswith(b"\r\n\r\n")
        assert unread == []
    finally:
        monkeypatch.undo()
        for connection in idle:
            connection.close()
    until(lambda: server._connections._value == serve.CONNECTIONS)
    assert lives(server, golden["views"][0])


# --- a reading that does not end ----------------------------------------------------------------------------------


@pytest.fixture
def gate(reader, monkeypatch) -> Iterator[threading.Event]:
    """Predictions wait for it."""
    gate, predict = threading.Event(), reader.predict
    monkeypatch.setattr(reader, "predict", lambda views: gate.wait(20) and predict(views))
    yield gate
    gate.set()


def test_a_reading_that_does_not_end_is_told_and_stops_no_other_answer(reader, golden, gate):
    body = npy(golden["views"][0])
    with serving(reader, reading=0.5) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, server, "POST", "/predict", body)
        until(lambda: server.worker._since is not None)
        time.sleep(0.2)
        second = pool.submit(ask, server, "POST", "/predict", body)  # its turn comes not before it is stuck
        status, headers, answer = first.result()
        assert (status, headers["Retry-After"]) == (503, "1")
        assert answer["error"] == "there was no answer within 0.5 s: send fewer frames or a smaller scan"
        assert second.result()[0] == 503
        status, _, answer = ask(server, "GET", "/health")
        assert (status, answer["status"]) == (500, "a reading does not end: start the program again")
        start = time.monotonic()
        status, _, answer = ask(server, "POST", "/predict", body)  # nor does anybody wait behind it
        assert (status, "does not end" in answer["error"]) == (503, True)
        assert time.monotonic() - start < 0.4
        gate.set()
        until(lambda: server.worker._since is None)
        assert lives(server, golden["views"][0])
        assert ask(server, "GET", "/health")[0] == 200
        assert list(Path(server._folder.name).iterdir()) == []


def test_what_nobody_waits_for_any_more_is_not_read(tmp_path):
    gate, read = threading.Event(), []
    slow = worker.Worker(lambda path: {"gate": gate.wait(20), "read": read.append(path.name)}, 0.3)
    with ThreadPoolExecutor(2) as pool:
        begun = pool.submit(slow, tmp_path / "begun")
        until(lambda: slow._since is not None)
        waiting = pool.submit(slow, tmp_path / "waiting")
        for job in (begun, waiting):
            with pytest.raises(worker.NoAnswer):
                job.result()
    gate.set()
    assert slow.stop(5)
    assert read == ["begun"]


def test_closing_keeps_its_grace(reader, golden, gate):
    server = serve.Server(reader, "127.0.0.1", 0)
    (folder := Path(server._folder.name) / "scan.npy").write_bytes(npy(golden["views"][0]))
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(server.predict, folder)
        until(lambda: server.worker._since is not None)
        start = time.monotonic()
        assert server.close(grace=0.3) is False
        assert time.monotonic() - start < 1
        assert not Path(server._folder.name).exists()
        gate.set()
        assert job.result()["expression"]


# --- where a request lies -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="who lives is read from /proc")
def test_what_a_killed_program_left_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "MEMORY", tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = os.stat("/proc/self/ns/pid").st_ino
    left = tmp_path / f"smile-{here}-{ended.pid}-abc"
    others = [f"smile-{here}-{os.getpid()}-abc", f"smile-{here + 1}-{ended.pid}-abc", "smile-study", "else"]
    for folder in (left, *(tmp_path / name for name in others)):
        (folder / "tmp1").mkdir(parents=True)
        (folder / "tmp1" / "scan.npy").write_text("a face")
    with worker.scratch_folder() as mine:
        assert Path(mine).parent == tmp_path and f"-{os.getpid()}-" in mine
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, Path(mine).name])


def test_without_a_folder_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "MEMORY", tmp_path / "gone")
    with worker.scratch_folder() as mine:
        assert Path(mine).parent == Path(tempfile.gettempdir())


# --- as a program -------------------------------------------------------------------------------------------------


def scratch() -> set[Path]:
    return set(Path("/dev/shm").glob("smile-*")) | set(Path(tempfile.gettempdir()).glob("smile-*"))


@pytest.fixture
def started(tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a server in its own process, and says where it listens."""
    processes = []

    def start(*command: object) -> subprocess.Popen:
        before = scratch()
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        processes.append(process)
        process.scratch_before = before
        first = process.stderr.readline()
        found = re.match(
            r"listening on http://(127\.0\.0\.1):(\d+) \(onnxruntime \S+ cpu\); what is sent lies in (\S+) while it is read\n",
            first,
        )
        assert found and Path(found[3]).is_dir(), first
        if found[3] != "/dev/shm":
            assert "may be on a disk" in process.stderr.readline()
        process.server_address = (found[1], int(found[2]))
        return process

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture
def program(bundle, started) -> subprocess.Popen:
    """`run.py --serve 0`."""
    return started(bundle / "run.py", "--serve", "0", "--threads", "1")


def resident(process: subprocess.Popen) -> int:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def predict_steadily(program, golden, faces, *, count: int, warm: int) -> tuple[int, int]:
    """Resident bytes after `warm` and after `count` predictions: single frames, sequences, bad requests, and some raw scans."""
    bodies = [npy(golden["views"][n]) for n in range(5)] + [npy(golden["views"]), npy(golden["views"][:2])]
    scan = (faces / "colour.obj").read_bytes()
    sizes = []
    for number in range(1, count + 1):
        if number % 50 == 0:
            assert ask(program, "POST", "/predict?name=face.obj", scan)[0] == 200
        else:
            assert ask(program, "POST", "/predict", bodies[number % len(bodies)])[0] == 200
        if number % 10 == 0:
            assert ask(program, "POST", "/predict", b"junk")[0] == 400
        if number in (warm, count):
            sizes.append(resident(program))
    return sizes[0], sizes[1]


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")


@needs_proc
def test_300_predictions_hold_their_memory(program, golden, faces):
    before, after = predict_steadily(program, golden, faces, count=300, warm=100)
    assert after < 1.05 * before


@needs_proc
@pytest.mark.slow
def test_10000_predictions_hold_their_memory(program, golden, faces):
    before, after = predict_steadily(program, golden, faces, count=10_000, warm=500)
    assert after < 1.05 * before, f"{before / 2**20:.1f} MiB grew to {after / 2**20:.1f} MiB"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_nothing_was_logged(program, golden, faces, number):
    assert ask(program, "POST", "/predict?name=Jane.ply", (faces / "colour.ply").read_bytes())[0] == 200
    assert ask(program, "POST", "/predict?name=Jane.obj", b"v Jane Jane Jane\n")[0] == 422
    assert ask(program, "POST", "/Jane", npy(golden["views"]))[0] == 404
    program.send_signal(number)
    out, err = program.communicate(timeout=20)
    assert (program.returncode, out, err) == (0, "", "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(program.server_address, timeout=1)
    assert scratch() <= program.scratch_before


def test_a_running_prediction_is_finished_first(program, golden):
    body = npy(np.concatenate([golden["views"]] * 100))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, program, "POST", "/predict", body)
        time.sleep(0.2)
        program.send_signal(signal.SIGTERM)
        assert answer.result()[0] == 200
    assert program.wait(timeout=20) == 0


SLOW = """
import sys, time
sys.path.insert(0, sys.argv[1])
import run
run.ExpressionReader.predict = lambda self, views: time.sleep(60)
sys.exit(run.main(["--serve", "0"]))
"""


def test_a_prediction_that_does_not_end_does_not_keep_the_program(bundle, golden, started):
    program = started("-c", SLOW, bundle)
    with socket.create_connection(program.server_address, timeout=20) as connection:
        body = npy(golden["views"])
        connection.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.5)
        start = time.monotonic()
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=20) == 0
        assert 4.5 < time.monotonic() - start < 8  # the grace that it was given
    assert scratch() <= program.scratch_before


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_where_to_listen(text, address):
    assert serve.parse_address(text) == address


@pytest.mark.parametrize("text", ["x", "", "80:x", "99999", "-1", "host:", "²"])
def test_where_nobody_can_listen(bundle, text, capsys):
    assert main(["--bundle", str(bundle), f"--serve={text or ':'}"]) == 2
    assert "give [HOST:]PORT" in capsys.readouterr().err


def test_a_port_that_is_taken(server, bundle, run):
    done = run("--serve", str(server.server_address[1]))
    assert done.returncode == 2
    assert re.fullmatch(
        r"nothing can listen at 127\.0\.0\.1:\d+ \(.+\): choose another --serve", done.stderr.strip()
    )
