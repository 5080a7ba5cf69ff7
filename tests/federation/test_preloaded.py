"""The fork server of the loopback tests outlives those who ask it."""

import os
import socket

import pytest

from tests.federation.preloaded import asked


@pytest.mark.parametrize("said", [b"", b'{"arguments": ['], ids=["nothing", "half"])
def test_one_who_is_killed_while_asking_is_told_by_the_missing_end(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(10)
        with theirs:
            theirs.sendall(said)
        assert asked(ours) == (said, [])


def test_a_whole_request_comes_with_its_files() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(theirs, [b"{}\n"], [1, 2])
        text, files = asked(ours)
    assert text == b"{}\n" and len(files) == 2
    for file in files:
        os.close(file)
