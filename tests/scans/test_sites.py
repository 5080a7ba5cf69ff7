"""The five sample sites: counts as their README states them, and geometry that fits their own landmarks."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from smile.labels import EXPRESSIONS
from smile.scans import find, read, read_file
from smile.scans.landmarks import KEY_POINTS

SITES = Path(__file__).parent.parent.parent.parent / "shared" / "sites"
pytestmark = pytest.mark.skipif(not SITES.is_dir(), reason="the sample sites are not beside the checkout")

# site: (data set, subjects, frames a sequence)
EXPECTED = {
    "north-bu4dfe": ("bu4dfe", {"F001", "F003", "M002"}, 3),
    "centre-bu3dfe": ("bu3dfe", {"F0031", "M0030"}, 1),
    "south-bosphorus": ("bosphorus", {"bs000", "bs001", "bs002"}, 1),
    "east-obj": ("scanner", {"P010", "P011", "P012"}, 1),
    "west-ply": ("scanner", {"P020", "P021", "P022"}, 1),
}


@pytest.mark.parametrize("site", EXPECTED)
def test_counts(site: str) -> None:
    dataset, subjects, frames = EXPECTED[site]
    listing = find(SITES / site)
    assert listing.dataset == dataset
    assert listing.problems == ()
    assert {s.subject for s in listing.sequences} == subjects
    assert Counter(s.label for s in listing.sequences) == dict.fromkeys(EXPRESSIONS[1:], len(subjects))
    assert [f.number for f in listing.sequences[0].frames] == list(range(frames))
    assert {len(s.frames) for s in listing.sequences} == {frames}
    assert len({s.name for s in listing.sequences}) == len(listing.sequences) == 6 * len(subjects)


@pytest.mark.parametrize("site", EXPECTED)
def test_every_scan_is_a_coloured_face_that_looks_along_z(site: str) -> None:
    for sequence in find(SITES / site).sequences:
        scan = read(sequence.frames[-1])
        assert len(scan.vertices) > 2000
        assert 120 < np.ptp(scan.vertices[:, 1]) < 260  # mm
        corners = scan.vertices[scan.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        assert (normals[:, 2] > 0).mean() > 0.95
        if scan.texture is None:
            assert scan.vertex_colors is not None
            assert scan.vertex_colors.std() > 5
        else:
            assert scan.texture.image.std() > 5
            assert (scan.texture.corner_uv >= 0).all()
            assert (scan.texture.corner_uv <= 1).all()


@pytest.mark.parametrize(("site", "count"), [("centre-bu3dfe", 68), ("south-bosphorus", 6)])
def test_landmarks_lie_on_the_scan(site: str, count: int) -> None:
    for sequence in find(SITES / site).sequences:
        scan = read(sequence.frames[0], need_texture=False)
        assert len(scan.landmarks) == count
        lowest = scan.vertices[
            :, 1
        ].min()  # two Bosphorus samples are cut off above the chin of an open mouth
        points = np.stack([p for name, p in scan.landmarks.items() if name in KEY_POINTS and p[1] > lowest])
        assert len(points) >= 5
        surface = np.concatenate([scan.vertices, scan.vertices[scan.faces].mean(axis=1)])
        nearest = np.sqrt(((surface[:, None] - points) ** 2).sum(axis=2)).min(axis=0)
        assert nearest.max() < 1.5
        named = scan.landmarks
        assert named["nose_tip"][2] > named["chin"][2]
        assert named["left_eye_inner"][0] > named["right_eye_inner"][0]
        assert (
            named["left_eye_inner"][1]
            > named["nose_tip"][1]
            > named["left_mouth_corner"][1]
            > named["chin"][1]
        )


@pytest.mark.parametrize("site", EXPECTED)
def test_a_single_file_reads_like_its_frame(site: str) -> None:
    frame = find(SITES / site).sequences[0].frames[0]
    alone, listed = read_file(frame.path), read(frame)
    np.testing.assert_array_equal(alone.vertices, listed.vertices)
    assert alone.landmarks.keys() == listed.landmarks.keys()
    assert (alone.texture is None) == (listed.texture is None)
    if alone.texture is not None and listed.texture is not None:
        np.testing.assert_array_equal(alone.texture.image, listed.texture.image)


def test_obj_agrees_with_trimesh() -> None:
    """The same triangles and the same texture places as trimesh, which splits vertices where we do not."""
    import trimesh

    path = find(SITES / "east-obj").sequences[0].frames[0].path
    scan, other = read_file(path), trimesh.load_mesh(path, process=False)
    assert scan.texture is not None
    np.testing.assert_allclose(scan.vertices[scan.faces], other.triangles, atol=1e-6)
    assert isinstance(other.visual, trimesh.visual.TextureVisuals)
    np.testing.assert_allclose(scan.texture.corner_uv, np.asarray(other.visual.uv)[other.faces], atol=1e-6)
