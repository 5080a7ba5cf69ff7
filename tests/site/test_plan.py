"""Which frames are taken, how they are cut into shards, and when a shard counts as done."""

import functools
import os
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smile.config import ViewConfig
from smile.scans import Frame, Listing, Sequence
from smile.site import plan
from smile.site.plan import CHUNK, files_of, make_plan, plain_views, shared_files, views_hash
from smile.site.sampling import middle
from smile.site.work import Settings


def listing(subjects: int, *, frames: int = 1, folder: Path = Path("/raw")) -> Listing:
    return Listing(
        "scanner",
        "made up",
        tuple(
            Sequence(
                f"P{s:03d}",
                "fear",
                f"P{s:03d}/fear_{k}",
                tuple(Frame(folder / f"P{s:03d}_{k}_{number}.ply", number) for number in range(frames)),
            )
            for s in range(subjects)
            for k in range(3)
        ),
    )


def settings(**changes) -> Settings:
    return Settings(**{"views": ViewConfig(), "renderer": "numpy", "raw": Path("/raw"), **changes})


@given(length=st.integers(0, 400), frames=st.integers(1, 40))
def test_selected_frames_are_distinct_in_order_and_in_the_middle(length: int, frames: int) -> None:
    chosen = middle(length, frames)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(length, frames)
    if length >= 2 * frames:
        assert (length - 1) / 4 - 1 <= chosen[0]
        assert chosen[-1] <= 3 * (length - 1) / 4 + 1
    if chosen:
        np.testing.assert_allclose(np.mean(chosen), (length - 1) / 2, atol=1.01)


def test_a_hundred_frames_give_the_onset_the_apex_and_the_offset() -> None:
    assert middle(100, 4) == [31, 43, 56, 68]
    assert middle(100, 1) == [50]
    assert middle(5, 4) == [0, 1, 2, 3]
    assert middle(3, 4) == [0, 1, 2]


def test_every_chosen_frame_is_planned_once_with_its_time() -> None:
    plan = make_plan(listing(20, frames=9), settings(frames=3))
    every = [item for chunk in plan.chunks for item in chunk.items]
    items = [item for item in every if item.drawn]
    firsts = [item.frame.path for item in every if not item.drawn]
    assert sorted(firsts) == [Path(f"/raw/P{s:03d}_{k}_0.ply") for s in range(20) for k in range(3)]
    assert plan.samples == len(items) == 20 * 3 * 3
    assert len({item.frame.path for item in items}) == len(items)
    assert max(len(chunk.items) for chunk in plan.chunks) <= CHUNK
    assert {item.time for item in items} == {position / 8 for position in middle(9, 3)}
    static = make_plan(listing(2), settings())
    assert {item.time for chunk in static.chunks for item in chunk.items} == {0.0}


def test_a_new_subject_moves_few_shards() -> None:
    before, after = listing(60), listing(60)
    late = Sequence("P000", "anger", "P000/anger_9", (Frame(Path("/raw/new.ply")),))
    after = Listing(after.dataset, after.why, (*after.sequences, late))
    keys = [{chunk.key for chunk in make_plan(part, settings()).chunks} for part in (before, after)]
    assert len(keys[0]) > 12
    assert len(keys[1] - keys[0]) <= 5


def test_the_key_follows_input_and_settings_but_not_place_or_renderer(tmp_path: Path) -> None:
    def keys(folder: Path, **changes) -> list[str]:
        return [
            chunk.key
            for chunk in make_plan(listing(1, folder=folder), settings(raw=folder, **changes)).chunks
        ]

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(3):
            path = tmp_path / name / f"P000_{k}_0.ply"
            path.write_text("x")
            os.utime(path, ns=(10**18, 10**18))
    first = keys(tmp_path / "a")
    assert keys(tmp_path / "b") == first, "the folder was moved or mounted elsewhere"
    assert keys(tmp_path / "a", renderer="pyrender") == first
    assert keys(tmp_path / "a", views=ViewConfig(yaws=(-30, 0, 30), radius=95)) == first, (
        "integers, same setting"
    )
    assert keys(tmp_path / "a", views=ViewConfig(size=32)) != first
    os.utime(tmp_path / "a" / "P000_1_0.ply", ns=(10**18, 10**18 + 1))
    assert keys(tmp_path / "a") != first
    (tmp_path / "b" / "P000_1_0.ply").write_text("xy")
    os.utime(tmp_path / "b" / "P000_1_0.ply", ns=(10**18, 10**18))
    assert keys(tmp_path / "b") != first


def test_a_changed_material_of_an_obj_counts_as_a_change(tmp_path: Path) -> None:
    part = Listing("scanner", "", (Sequence("P001", None, "x", (Frame(tmp_path / "P001_sad_0.obj"),)),))
    for name in ("P001_sad_0.obj", "material.mtl", "material_0.png"):
        (tmp_path / name).write_text("x")
    keys = [make_plan(part, settings(raw=tmp_path)).chunks[0].key]
    for name in ("material.mtl", "material_0.png"):
        (tmp_path / name).write_text("changed")
        keys.append(make_plan(part, settings(raw=tmp_path)).chunks[0].key)
    assert len(set(keys)) == 3
    (tmp_path / "notes.txt").write_text("x")
    assert make_plan(part, settings(raw=tmp_path)).chunks[0].key == keys[-1]


def test_images_go_by_the_name_of_a_mesh_or_belong_to_all(tmp_path: Path) -> None:
    names = [
        "face_1.obj",
        "face_1.mtl",
        "face_1_0.png",
        "face_10.obj",
        "face_10.png",
        "shared.mtl",
        "faces.png",
    ]
    names += ["F0001_AN01WH_F3D.wrl", "F0001_AN01WH_F2D.bmp", "face.txt"]
    for name in names:
        (tmp_path / name).write_text("x")
    make_plan(listing(0), settings())  # forgets what was in the folder before

    def own(name: str) -> set[str]:
        return {path.name for path in files_of(Frame(tmp_path / name))} - {name}

    assert own("face_1.obj") == {"face_1.mtl", "face_1_0.png"}
    assert own("face_10.obj") == {"face_10.png"}
    assert own("F0001_AN01WH_F3D.wrl") == {"F0001_AN01WH_F2D.bmp"}
    for name in ("face_1.obj", "face_10.obj"):
        assert {path.name for path in shared_files([Frame(tmp_path / name)])} == {"shared.mtl", "faces.png"}


def test_a_shared_texture_beside_several_meshes_counts_for_each(tmp_path: Path) -> None:
    for name in ("P001.obj", "P002.obj", "atlas.png"):
        (tmp_path / name).write_text("x")
    both = Listing(
        "scanner", "", tuple(Sequence(n, None, n, (Frame(tmp_path / f"{n}.obj"),)) for n in ("P001", "P002"))
    )
    before = {chunk.key for chunk in make_plan(both, settings(raw=tmp_path)).chunks}
    (tmp_path / "atlas.png").write_text("changed")
    assert not before & {chunk.key for chunk in make_plan(both, settings(raw=tmp_path)).chunks}


def test_many_images_beside_many_meshes_are_looked_at_once(tmp_path: Path, monkeypatch) -> None:
    for number in range(40):
        (tmp_path / f"P{number:03d}.obj").write_text("x")
        (tmp_path / f"image-{number}.png").write_text("x")
    many = tuple(Sequence(f"P{n}", None, f"{n}", (Frame(tmp_path / f"P{n:03d}.obj"),)) for n in range(40))
    looks, look = [], plan._state.__wrapped__
    monkeypatch.setattr(
        plan, "_state", functools.lru_cache(1)(lambda *words: looks.append(words) or look(*words))
    )
    make_plan(Listing("scanner", "", many), settings(raw=tmp_path))
    assert len(looks) == 80


def test_windows_that_choose_the_same_frames_are_one_sample() -> None:
    frames = tuple(Frame(Path(f"/raw/f{k}.ply"), k) for k in range(12))
    sequence = Sequence("P001", None, "P001/T1", frames, onset=4, apex=5, offset=7)
    for views in (ViewConfig(), ViewConfig(motion="dynamic"), ViewConfig(motion="difference")):
        plan = make_plan(
            Listing("bp4d", "", (sequence,)), settings(views=views, sampling="apex", window=8, frames=4)
        )
        items = [item for chunk in plan.chunks for item in chunk.items if item.drawn]
        chosen = {tuple(frame.path for frame in item.frames) for item in items}
        assert items and len(chosen) == len(items)
        assert len({chunk.key for chunk in plan.chunks}) == len(plan.chunks)


def test_a_coding_that_leaves_one_frame_is_named() -> None:
    frames = tuple(Frame(Path(f"/raw/f{k}.ply"), k) for k in range(5))
    sequence = Sequence("P001", None, "P001/T1", frames, onset=2, apex=2, offset=2)
    plan = make_plan(
        Listing("bp4d", "", (sequence,)), settings(views=ViewConfig(motion="dynamic"), sampling="apex")
    )
    (problem,) = plan.listing.problems
    assert "coding of onset, apex and offset leaves one of 5: correct the coding" in problem.reason


def test_the_hash_of_the_settings_is_the_same_for_the_same_pictures() -> None:
    assert views_hash(ViewConfig()) == views_hash(ViewConfig(yaws=(-30, 0, 30)))
    assert views_hash(ViewConfig()) != views_hash(ViewConfig(radius=90.0))
    assert plain_views(ViewConfig(yaws=(-30, 0, 30), radius=95)) == plain_views(ViewConfig())
