"""Replies on the coordinator's disk: whole or absent, exact, and gone at the end of the round."""

import errno
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from server.averaging import Spool, average

SHAPES = {"layer": (7, 5), "gain": (4,), "one": (1,), "scale": ()}


def _random(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape), np.float32) for name, shape in SHAPES.items()}


def test_a_spooled_reply_is_a_safetensors_file_and_reads_back_bit_for_bit(tmp_path: Path) -> None:
    arrays = _random(3) | {"empty": np.zeros((0, 4), np.float32), "nöt ascii": np.ones(2, np.float32)}
    arrays["layer"] = np.asfortranarray(arrays["layer"])
    with Spool(tmp_path / "spool", arrays) as spool:
        reply = spool.add("hospital-a", arrays)
        assert reply.path == tmp_path / "spool" / "hospital-a-0000.safetensors"
        with safe_open(reply.path, "numpy") as file:
            assert set(file.keys()) == set(arrays)
            for name, array in arrays.items():
                for read in (file.get_tensor(name), reply[name]):
                    np.testing.assert_array_equal(read, array, strict=True)
        np.testing.assert_array_equal(reply.part("layer", 3, 9), arrays["layer"].reshape(-1)[3:9])
    assert not (tmp_path / "spool").exists()


def test_the_spool_removes_what_it_wrote_and_nothing_else(tmp_path: Path) -> None:
    with Spool(tmp_path, _random(0)) as spool:
        spool.add("a", _random(0))
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "model.safetensors").write_text("mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "notes.txt"]


def test_the_spool_is_emptied_when_the_round_fails(tmp_path: Path) -> None:
    def failing() -> None:
        with Spool(tmp_path / "spool", _random(0)) as spool:
            spool.add("a", _random(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        failing()
    assert not (tmp_path / "spool").exists()


def test_what_a_killed_coordinator_left_is_cleared(tmp_path: Path) -> None:
    for name in ("a-0000.safetensors", "hospital_b-0012.part", "model.safetensors", "a-1.safetensors"):
        (tmp_path / name).write_text("old")
    with Spool(tmp_path, _random(0)):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.safetensors", "model.safetensors"]


def test_names_of_sites_cannot_leave_the_folder_or_meet_in_one_file(tmp_path: Path) -> None:
    names = ["../../etc/x", "/root", "..", "", "a/b", "a b", "a_b", "a\0b", "é" * 500, "x" * 500]
    with Spool(tmp_path / "spool", _random(0)) as spool:
        replies = [spool.add(name, _random(index)) for index, name in enumerate(names)]
        assert len({reply.path for reply in replies}) == len(names)
        assert all(reply.path.parent == tmp_path / "spool" for reply in replies)
        assert len(list(tmp_path.rglob("*"))) == len(names) + 1
        for index, reply in enumerate(replies):
            np.testing.assert_array_equal(reply["layer"], _random(index)["layer"])


def test_each_array_is_made_once_and_let_go_before_the_next(tmp_path: Path) -> None:
    asked = []

    class Lazy(dict):
        def __getitem__(self, name: str) -> np.ndarray:
            asked.append(name)
            return _random(1)[name]

    with Spool(tmp_path / "spool", _random(0)) as spool:
        spool.add("a", Lazy())
    assert asked == list(SHAPES)


def test_a_reply_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    with Spool(tmp_path, _random(0)) as spool:
        with pytest.raises(KeyError):
            spool.add("a", {"layer": _random(0)["layer"]})
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_with_the_path(tmp_path: Path) -> None:
    reference = {"a": np.zeros(100_000, np.float32)}
    with Spool(tmp_path, reference) as spool:
        (tmp_path / "a-0000.part").symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"a-0000\.part") as caught:
            spool.add("a", reference)
        assert caught.value.errno == errno.ENOSPC
        assert list(tmp_path.iterdir()) == []


def test_a_file_cut_short_by_others_is_an_error_and_no_average(tmp_path: Path) -> None:
    with Spool(tmp_path, _random(0)) as spool:
        reply = spool.add("a", _random(0))
        reply.path.write_bytes(reply.path.read_bytes()[:-1])
        with pytest.raises(OSError, match="cut short"):
            average("mean", {"a": reply}, {"a": 1.0}, _random(0))
