"""Frame after frame: order, smoothing, windows as `smile prepare` makes them, and frames that cannot be read."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from export.runtime.smile_edge import ExpressionReader, main, stream
from smile import motion
from smile.config import ViewConfig
from smile.scans import Frame, Sequence
from smile.site import sampling
from tests.export.sealing import seal
from tests.scans.writers_depth import picture, png16


@pytest.fixture
def frames(golden, tmp_path) -> list[Path]:
    """Eleven frames, each in a file of its own: golden captures without gaps, a little changed each."""
    rng, folder = np.random.default_rng(0), tmp_path / "frames"
    folder.mkdir()
    for number in range(11):
        views = golden["views"][0 if number < 6 else 2].astype(int)
        moved = np.where(views > 0, np.clip(views + rng.integers(-9, 10, views.shape), 1, 255), 0)
        np.save(folder / f"f{number}.npy", moved.astype(np.uint8))
    return [folder / f"f{number}.npy" for number in range(11)]


@pytest.fixture
def moving(bundle, tmp_path):
    """A bundle whose manifest says that the model was trained on motion."""

    def make(**changes) -> ExpressionReader:
        copy = Path(shutil.copytree(bundle, tmp_path / "moving"))
        preprocessing = json.loads((copy / "manifest.json").read_text())["preprocessing"]
        seal(copy, preprocessing={**preprocessing, **changes})
        return ExpressionReader(copy, threads=1)

    return make


# --- smoothing ----------------------------------------------------------------------------------------------------


def test_smoothing_is_a_mean_in_which_old_frames_count_half():
    rng = np.random.default_rng(0)
    rows = rng.dirichlet([1, 1, 1], 9)
    smoother = stream.Smoother(half_life=3)
    for now in range(len(rows)):
        missing = now == 4
        found = smoother.add(None if missing else dict(zip("abc", rows[now].tolist(), strict=True)))
        kept = [t for t in range(now + 1) if t != 4]
        weights = np.array([0.5 ** ((now - t) / 3) for t in kept])
        expected = weights @ rows[kept] / weights.sum()
        assert found == pytest.approx(dict(zip("abc", expected, strict=True)))
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_nothing_smoothed_before_the_first_frame_that_could_be_read():
    smoother = stream.Smoother()
    assert smoother.add(None) == {}
    assert smoother.add({"a": 0.25, "b": 0.75}) == pytest.approx({"b": 0.75, "a": 0.25})


# --- windows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 5, 6])
def test_a_window_answers_from_the_mean_of_its_frames(reader, frames, length):
    found = list(stream.answers(reader, iter(frames), window=length))
    embeddings = np.concatenate([reader.embed(np.load(path)) for path in frames])
    for answer, embedding in zip(found, embeddings, strict=True):
        assert answer["probabilities"] == pytest.approx(reader.classify(embedding)["probabilities"], abs=1e-6)
    windows = [answer["window"] for answer in found if "window" in answer]
    # Those of a recording, but for its last one, which ends with it wherever that is.
    step = length - length // 2
    starts = [s for s in sampling.starts(len(frames), length) if s % step == 0]
    assert [window["first"] for window in windows] == [f"f{start}.npy" for start in starts]
    for window, start in zip(windows, starts, strict=True):
        expected = reader.classify(embeddings[start : start + length].mean(axis=0))
        assert window["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
        assert (window["expression"], window["frames"]) == (expected["expression"], length)
        assert window["last"] == f"f{start + length - 1}.npy"


@pytest.mark.parametrize(
    "changes", [{"motion": "difference"}, {"magnify": 4.0}, {"motion": "dynamic", "magnify": 2.0}]
)
def test_a_model_of_motion_reads_what_smile_prepare_makes(moving, frames, changes):
    reader = moving(**changes)
    config = ViewConfig(modalities=("depth", "normals"), **changes)
    found = list(stream.answers(reader, iter(frames), window=5))
    stack = np.stack([np.load(path) for path in frames])
    windows = [answer["window"] for answer in found if "window" in answer]
    assert len(windows) == 3
    for window, start in zip(windows, (0, 3, 6), strict=True):
        part = stack[start : start + 5]
        sequence = Sequence("s", None, "s", tuple(Frame(Path(str(k)), number=k) for k in range(5)))
        samples = sampling.samples(sequence, config, frames=5, sampling="uniform")
        pictures = np.stack([motion.of_frames(part[list(positions)], config) for _, positions in samples])
        expected = reader.classify(reader.embed(pictures).mean(axis=0))
        assert window["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    assert "expression" not in found[0]  # one frame shows no motion
    since = motion.of_frames(stack[4:9], config)  # of frame 8, within the last five
    assert found[8]["expression"] == reader.classify(reader.embed(since)[0])["expression"]
    assert found[8]["smoothed"]["half_life"] == stream.HALF_LIFE


def test_a_still_face_and_nothing_in_common(moving, frames, tmp_path):
    reader = moving(motion="difference")
    views = np.load(frames[0])
    left, right = views.copy(), views.copy()
    left[..., :32], right[..., 32:] = 0, 0
    np.save(tmp_path / "left.npy", left)
    np.save(tmp_path / "right.npy", right)
    found = list(stream.answers(reader, iter([tmp_path / "left.npy", tmp_path / "right.npy"]), window=2))
    assert all("error" not in answer and "window" not in answer for answer in found)


def test_frames_must_not_show_motion_already(moving, frames, tmp_path):
    reader = moving(motion="difference")
    site = tmp_path / "site" / "shards"
    site.mkdir(parents=True)
    shutil.copy(frames[0], site / "a.npy")
    spec = reader.manifest["preprocessing"]
    views = {key: spec[key] for key in ("yaws", "size", "radius", "modalities", "motion", "magnify")}
    (site.parent / "manifest.json").write_text(json.dumps({"views": views}))
    (answer,) = stream.answers(reader, iter([site / "a.npy"]))
    assert "prepared with motion = difference" in answer["error"]


# --- frames that cannot be read -----------------------------------------------------------------------------------


def test_a_frame_that_cannot_be_read_has_its_line(reader, frames, tmp_path):
    clip = tmp_path / "clip.npy"
    np.save(clip, np.stack([np.load(path) for path in frames[:2]]))
    (tmp_path / "junk.npy").write_bytes(b"junk")
    paths = [frames[0], tmp_path / "gone.npy", clip, tmp_path / "junk.npy", frames[1]]
    found = list(stream.answers(reader, iter(paths), half_life=1, window=2))
    assert [answer["frame"] for answer in found] == [0, 1, 2, 3, 4]
    assert [answer["input"] for answer in found] == list(map(str, paths))
    for answer, reason in zip(
        found[1:4], ("not there", "2 frames: a stream takes one", "not an .npy"), strict=True
    ):
        assert reason in answer["error"]
        assert set(answer) == {"frame", "input", "error"}
    first, last = found[0]["probabilities"], found[4]["probabilities"]
    smoothed = {name: (first[name] / 16 + last[name]) / (1 / 16 + 1) for name in first}
    assert found[4]["smoothed"]["probabilities"] == pytest.approx(smoothed)
    assert found[4]["window"]["first"] == frames[0].name


def test_depth_frames_find_their_colour(bundle, all_channels, tmp_path):
    from tests.export.test_depth import FACE, HIT, METRES, PHONE, VERTICES, prepared
    from tests.scans.writers_depth import sides

    folder = tmp_path / "frames"
    frame = png16(folder / "a_0001_depth.png", np.nan_to_num(METRES * 1000).round())
    picture(folder / "a_0001_color.png", sides(VERTICES, FACE.faces, HIT))
    lens = {name: getattr(PHONE, name) for name in ("fx", "fy", "cx", "cy")}
    camera = tmp_path / "lens.json"
    camera.write_text(json.dumps({**lens, "depth_scale": 0.001}))
    assert list(stream._frames(folder)) == ["a_0001_depth.png"]
    views, _ = stream._read(frame, bundle, all_channels, camera)
    np.testing.assert_array_equal(views[0], prepared(frame, camera, colour=folder / "a_0001_color.png"))
    (folder / "a_0001_color.png").unlink()
    with pytest.raises(ValueError, match="has no colours"):
        stream._read(frame, bundle, all_channels, camera)


# --- a folder -----------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(stream, "POLL", 0.01)
    monkeypatch.setattr(stream, "SETTLED", 0.1)
    monkeypatch.setattr(stream, "EMPTY", 0.3)


def names(paths) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_in_the_order_of_names(tmp_path, quick):
    for name in ("f10.ply", "f2.npy", "f1.obj", ".f0.npy", "f1.mtl", "skin.png", "f3_depth.png", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "sub").mkdir()
    assert names(stream.watch(tmp_path, idle=0.2)) == ["f1.obj", "f2.npy", "f3_depth.png", "f10.ply"]


def test_frames_that_were_read_cost_nothing_more(tmp_path, quick, monkeypatch):
    asked, scandir = [], os.scandir

    class Entry:
        def __init__(self, entry):
            self.name, self._entry = entry.name, entry

        def stat(self):
            asked.append(self.name)
            return self._entry.stat()

    @contextlib.contextmanager
    def counted(folder):
        with scandir(folder) as entries:
            yield map(Entry, entries)

    monkeypatch.setattr(os, "scandir", counted)
    for number in range(20):
        (tmp_path / f"f{number}.npy").write_text("x")
    paths = stream.watch(tmp_path, idle=0.5)
    assert len([next(paths) for _ in range(20)]) == 20
    asked.clear()
    (tmp_path / "f20.npy").write_text("x")
    assert names(paths) == ["f20.npy"]
    assert set(asked) == {"f20.npy"}


def test_a_folder_of_depth_images(tmp_path, quick):
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "0001.png").write_text("x")
    assert names(stream.watch(tmp_path / "depth", idle=0.1)) == ["0001.png"]


def test_a_frame_is_taken_when_it_is_whole_and_those_after_it_wait(tmp_path, quick):
    def write():
        with (tmp_path / "f1.npy").open("wb") as file:
            for _ in range(10):
                time.sleep(0.05)
                file.write(b"x" * 10)
                file.flush()

    (tmp_path / "f1.npy").touch()
    (tmp_path / "f2.npy").write_text("x")
    writer = threading.Thread(target=write)
    writer.start()
    found = [(path.name, path.stat().st_size) for path in stream.watch(tmp_path, idle=0.3)]
    writer.join()
    assert found == [("f1.npy", 100), ("f2.npy", 1)]


def test_frames_that_come_later_and_too_late(tmp_path, quick, capsys):
    (tmp_path / "f2.npy").write_text("x")
    found = []
    for path in stream.watch(tmp_path, idle=0.4):
        found.append(path.name)
        if path.name == "f2.npy":
            (tmp_path / "f1.npy").write_text("x")
            (tmp_path / "f3.npy").write_text("x")
            path.unlink()  # whoever wrote it may clean up
    assert found == ["f2.npy", "f3.npy"]
    err = capsys.readouterr().err
    assert err.splitlines() == ["f1.npy came after a later frame and is left out: write frames in order"]


def test_a_folder_that_is_none(tmp_path, bundle, capsys):
    assert main(["--bundle", str(bundle), "--stream", str(tmp_path / "gone")]) == 2
    assert "gone cannot be read" in capsys.readouterr().err


# --- the command --------------------------------------------------------------------------------------------------


def test_paths_on_standard_input(bundle, frames, run):
    paths = [*map(str, frames[:3]), "", "gone.npy"]
    done = run("--stream", "-", "--window", "2", "--half-life", "2", "--top", "1", input="\n".join(paths))
    assert (done.returncode, done.stderr) == (2, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["input"] for line in lines] == [*map(str, frames[:3]), "gone.npy"]
    assert "error" in lines[3]
    assert [len(lines[2][key]["probabilities"]) for key in ("smoothed", "window")] == [1, 1]
    assert lines[0]["round"] == 3 and lines[0]["smoothed"]["half_life"] == 2
    assert set(lines[0]["milliseconds"]) == {"read", "views", "engine"}


def test_a_live_folder_until_ctrl_c(bundle, frames, tmp_path):
    live = tmp_path / "live"
    live.mkdir()
    process = subprocess.Popen(
        [sys.executable, bundle / "run.py", "--stream", live, "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for number, frame in enumerate(frames[:3]):
            shutil.copy(frame, live / "partial")
            os.rename(live / "partial", live / frame.name)
            assert json.loads(process.stdout.readline())["frame"] == number
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stream", "x", "y.npy"],
        ["--stream", "x", "--serve", "0"],
        ["--stream", "x", "--window", "1"],
        ["--stream", "x", "--half-life", "0"],
        ["--stream", "x", "--half-life", "nan"],
        ["--stream", "x", "--idle", "-1"],
    ],
)
def test_options_that_make_no_sense(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "error: " in capsys.readouterr().err


def test_a_long_stream_holds_no_more_than_its_window(reader, frames):
    windows = stream.Windows(reader, 4)
    views = np.load(frames[0])
    for _ in range(50):
        windows.add("x", views)
    assert len(windows._last) == 4
