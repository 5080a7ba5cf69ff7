"""FaceScape: twenty numbered expressions, of which five are words of ours."""

from pathlib import Path

import numpy as np
import pytest

from smile.scans import Options, facescape, find, read
from tests.scans.writers import image, ply, write
from tests.scans.writers_film import FACES, VERTICES, reasons, textured_obj, touch

ALL = [f"{k}_{name}" for k, name in enumerate(facescape.NAMES, start=1)]


def test_only_five_expressions_have_a_label(tmp_path: Path) -> None:
    touch(
        tmp_path, *(f"facescape/122/models_reg/{name}.{e}" for name in ALL for e in ("obj", "jpg", "obj.mtl"))
    )
    touch(tmp_path, "facescape/122/dpmap/1_neutral.png", "facescape/info.txt")
    listing = find(tmp_path)
    assert listing.dataset == "facescape"
    assert len(listing.sequences) == 20
    assert {s.name: s.label for s in listing.sequences if s.label} == {
        "122/1_neutral": "neutral",
        "122/2_smile": "happiness",
        "122/4_anger": "anger",
        "122/14_sadness": "sadness",
        "122/16_grin": "happiness",
    }
    assert {s.subject for s in listing.sequences} == {"122"}
    assert all(not s.measures for s in listing.sequences)
    assert listing.problems == ()
    frame = next(s for s in listing.sequences if s.label == "anger").frames[0]
    assert frame.texture == tmp_path / "facescape/122/models_reg/4_anger.jpg"


def test_a_mapping_counts_more_than_the_table(tmp_path: Path) -> None:
    touch(tmp_path, *(f"1/models_reg/{name}.obj" for name in ALL))
    options = Options(mapping={"grin": "", "brow_lower": "anger"})
    labels = {s.name: s.label for s in find(tmp_path, options=options).sequences}
    assert labels["1/16_grin"] is None
    assert labels["1/20_brow_lower"] == "anger"


def test_multi_view_meshes_where_no_registered_one_is(tmp_path: Path) -> None:
    touch(tmp_path, "7/4_anger.ply", "7/4_anger/0.jpg", "7/4_anger/params.json", "7/2_smile.ply")
    touch(tmp_path, "7/models_reg/4_anger.obj")
    listing = find(tmp_path)
    assert [s.frames[0].path.name for s in listing.sequences] == ["2_smile.ply", "4_anger.obj"]
    assert "1 multi-view mesh left out, as registered ones are there" in listing.why


def test_names_that_are_not_in_the_list(tmp_path: Path) -> None:
    touch(tmp_path, *(f"1/models_reg/{name}.obj" for name in ("1_neutral", "4_angry", "5_anger", "mean")))
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["1/1_neutral"]
    assert len(listing.problems) == 3
    assert "'5_anger.obj' is not named after one of the twenty expressions, like 4_anger.obj" in reasons(
        listing
    )


def test_a_registered_and_a_multi_view_mesh_are_read(tmp_path: Path) -> None:
    textured_obj(tmp_path / "1/models_reg/4_anger")
    image(tmp_path / "1/models_reg/4_anger.jpg", height=20, width=20)
    write(tmp_path / "1/2_smile.ply", ply(VERTICES, FACES, color=(1, 2, 3)))
    scans = {s.label: read(s.frames[0]) for s in find(tmp_path).sequences}
    for scan in scans.values():
        np.testing.assert_allclose(scan.vertices, VERTICES, atol=1e-4)
        np.testing.assert_array_equal(scan.faces, FACES)
    texture, colors = scans["anger"].texture, scans["happiness"].vertex_colors
    assert texture is not None and texture.image.shape == (20, 20, 3)
    assert colors is not None and (colors == (1, 2, 3)).all()
    (tmp_path / "1/models_reg/4_anger.jpg").unlink()
    with pytest.raises(ValueError, match=r"4_anger\.jpg' is missing"):
        read(next(s for s in find(tmp_path).sequences if s.label == "anger").frames[0])


def test_meshes_in_the_wrong_place_are_said(tmp_path: Path) -> None:
    touch(
        tmp_path, "1/models_reg/1_neutral.obj", "1/models_reg/4_anger.ply", "1/2_smile.obj", "1/16_grin.obj"
    )
    touch(tmp_path, "person 2/models_reg/1_neutral.obj", "person 3/1_neutral.ply", "notes/a.ply")
    touch(tmp_path, "4/dpmap/1_neutral.png", "5/models_reg/1_neutral.stl")
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["1/1_neutral"]
    assert {(p.path.relative_to(tmp_path).as_posix(), p.reason) for p in listing.problems} == {
        ("1", "2 .obj meshes left out: move them to models_reg"),
        ("1/models_reg", "1 .ply mesh left out: move them to 1"),
        ("person 2", "folder 'person 2' looks like a subject, but a subject is a number: correct its name"),
        ("person 3", "folder 'person 3' looks like a subject, but a subject is a number: correct its name"),
        ("4", "subject 4 has no meshes like 4/models_reg/4_anger.obj or 4/4_anger.ply: restore them"),
        ("5", "subject 5 has no meshes like 5/models_reg/4_anger.obj or 5/4_anger.ply: restore them"),
    }
    assert len(listing.problems) == 6


def test_leading_zeros_make_no_other_person(tmp_path: Path) -> None:
    touch(tmp_path, "data/facescape_trainset_001_100/1/models_reg/4_anger.obj")
    touch(tmp_path, "data/multiview/01/2_smile.ply", "data/multiview/01/4_anger.ply")
    listing = find(tmp_path)
    assert [(s.subject, s.name) for s in listing.sequences] == [("1", "1/2_smile"), ("1", "1/4_anger")]
    assert "1/4_anger is already there as" in reasons(listing)


def test_leading_zeros_make_no_other_expression(tmp_path: Path) -> None:
    touch(tmp_path, "1/models_reg/4_anger.obj", "1/models_reg/04_anger.obj", "1/models_reg/02_smile.obj")
    listing = find(tmp_path)
    assert [s.name for s in listing.sequences] == ["1/2_smile", "1/4_anger"]
    assert "1/4_anger is already there as" in reasons(listing)
