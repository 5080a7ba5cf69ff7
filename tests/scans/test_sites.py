"""The five sample sites: counts as their README states them, and geometry that fits their own landmarks."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from smile.labels import EXPRESSIONS
from smile.scans import find, read, read_file
from smile.scans.surface import distances

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


@pytest.mark.parametrize(("site", "least"), [("centre-bu3dfe", 60), ("south-bosphorus", 5)])
def test_landmarks_lie_on_the_scan(site: str, least: int) -> None:
    """Those of 68 and of 6 whose place the scanner saw: of a surprised mouth's chin, say, two scans hold nothing."""
    for sequence in find(SITES / site).sequences:
        scan = read(sequence.frames[0], need_texture=False)
        assert len(scan.landmarks) >= least
        points = np.stack(list(scan.landmarks.values()))
        assert distances(points, scan.vertices, scan.faces).max() <= 1.0  # mm
        named = scan.landmarks
        assert named["nose_tip"][2] > named["left_mouth_corner"][2]
        assert named["left_mouth_corner"][0] > named["right_mouth_corner"][0]
        assert named["left_eye_inner"][1] > named["nose_tip"][1] > named["left_mouth_corner"][1]
        assert named["left_mouth_corner"][1] > named.get("chin", [0, -np.inf])[1]


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
