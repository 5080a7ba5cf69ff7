"""Flower's app processes, forked from one that has torch and open_clip loaded; importing them costs 14 s of CPU a message.

`flwr-clientapp` and `flwr-serverapp` are found by name in PATH, so that a stand-in there is what a SuperExec starts: it hands
its arguments, environment and output over, and ends with the process that runs Flower's own command with them.
"""

import json
import os
import shlex
import signal
import socket
import sys
import threading
from pathlib import Path

TOOLS = {"flwr-clientapp": "flwr.supernode.cli", "flwr-serverapp": "flwr.superlink.cli"}
LOADED = ("open_clip", "safetensors.torch", "sklearn.metrics", "torch.utils.tensorboard", *TOOLS.values())


def write_stand_ins(folder: Path, address: Path) -> None:
    """`folder`/flwr-clientapp and flwr-serverapp, for a `serve` that listens at `address`."""
    folder.mkdir()
    for tool in TOOLS:
        command = [sys.executable, "-IS", str(Path(__file__).resolve()), str(address), str(folder), tool]
        (folder / tool).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (folder / tool).chmod(0o755)


def hand_over(address: str, folder: str, arguments: list[str]) -> None:
    """The stand-in: `folder`/PID tells which process does its work; it waits until that is dead."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], [1, 2])
        (Path(folder) / str(os.getpid())).write_text(connection.recv(20).decode())
        connection.recv(1)


def serve(address: str) -> None:
    """Load everything, listen, and fork for each stand-in; only the children return, as what they stand for."""
    import importlib

    for name in LOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork would leave the other threads' locks as they are"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        door.settimeout(1)
        while os.getppid() == parent:
            try:
                connection, _ = door.accept()
            except TimeoutError:
                continue
            connection.settimeout(10)
            text, files = asked(connection)
            if text.endswith(b"\n"):
                if not (process := os.fork()):
                    become(json.loads(text), files)
                    break  # with the connection open until it dies
                try:
                    connection.sendall(str(process).encode())
                except OSError:  # the stand-in was killed meanwhile, and so dies what it stood for
                    os.kill(process, signal.SIGKILL)
            connection.close()
            for file in files:
                os.close(file)


def asked(connection: socket.socket) -> tuple[bytes, list[int]]:
    """The request of a stand-in and its two files; a text without its end where the stand-in was killed or stopped before."""
    text, files = b"", list[int]()
    try:
        text, files, *_ = socket.recv_fds(connection, 1 << 20, 2)
        while not text.endswith(b"\n") and (more := connection.recv(1 << 20)):
            text += more
    except OSError:
        pass
    return text, files


def become(request: dict, files: list[int]) -> None:
    """Take over what the stand-in was started with, and run Flower's command."""
    import importlib

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(file, number)
    sys.argv = request["arguments"]
    tool = sys.argv[0]
    sys.exit(getattr(importlib.import_module(TOOLS[tool]), tool.replace("-", "_"))())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        hand_over(sys.argv[1], sys.argv[2], sys.argv[3:])
