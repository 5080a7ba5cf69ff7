"""`--dataset auto`: the tree of each data set is recognised as itself and by no other data set's rule."""

from pathlib import Path

import pytest

from smile.scans import _LAYOUTS, DATASETS, Options, find
from tests.scans.writers import write

FIVE = "sequence,subject,Negative,Positive,Repression,Surprise,Others\n12,S1,1,0,0,0,0\n"
# The smallest tree of each data set with what usually lies around it.
TREES: dict[str, dict[str, str]] = {
    "bu4dfe": dict.fromkeys(
        ("F001/Angry/000.wrl", "F001/Angry/000.jpg", "F001/Angry/000.bnd", "BU_WrlViewer_V2/viewer.exe"), "x"
    ),
    "bu3dfe": dict.fromkeys(
        ("F0001/F0001_AN01WH_F3D.wrl", "F0001/F0001_AN01WH_F3D.bnd", "F0001/F0001_AN01WH_RAW.wrl"), "x"
    ),
    "bosphorus": dict.fromkeys(
        ("bs000/bs000_E_ANGER_0.bnt", "bs000/bs000_E_ANGER_0.png", "bs001/readme.txt"), "x"
    ),
    "frgc": dict.fromkeys(("Fall2003range/02463d546.abs.gz", "Fall2003range/02463d547.ppm"), "x"),
    "bp4d": dict.fromkeys(
        ("Sequences/F001/T1/000.obj", "Sequences/F001/T1/000.jpg", "AUCoding/F001_T1.csv"), "0,1\n"
    ),
    "bp4dplus": dict.fromkeys(
        ("2D+3D/F001/T10/0000.obj", "AUCoding/AU_OCC/F001_T10.csv", "Thermal/F001/T10.mv"),
        "0,1\n",
    ),
    "4dme": {"train/12/1.jpg": "x", "train/12/2.jpg": "x", "labels.csv": FIVE},
    "d3dfacs": dict.fromkeys(("Ann/1+2/1+2_175.ply", "Ann/12/12_1.ply", "Bob/4/4_3.ply"), "x"),
    "coma": dict.fromkeys(
        (
            "FaceTalk_170725_00137_TA/bareteeth/bareteeth.000001.ply",
            "FaceTalk_170725_00137_TA/sentence01/sentence01.000001.ply",
        ),
        "x",
    ),
    "facescape": dict.fromkeys(
        (
            "122/models_reg/4_anger.obj",
            "122/models_reg/4_anger.obj.mtl",
            "122/4_anger/0.jpg",
            "122/4_anger.ply",
        ),
        "x",
    ),
    "scanner": dict.fromkeys(
        ("P001/P001_happy_0.obj", "P001/P001_happy_0.mtl", "P002_sad_1.ply", "notes.txt"), "x"
    ),
}


def plant(root: Path, name: str) -> Path:
    for path, text in TREES[name].items():
        write(root / path, text)
    return root


def test_every_data_set_has_a_tree_here() -> None:
    assert set(TREES) == set(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_a_tree_is_recognised_as_itself_and_by_no_other(tmp_path: Path, name: str) -> None:
    root = plant(tmp_path / "data", name)
    fitting = {other for other in DATASETS if _LAYOUTS[other].matches(root)}
    assert fitting == {name} | ({"bp4dplus"} if name == "bp4d" else set())
    listing = find(root, dataset=name)
    assert listing.dataset == name
    assert listing.sequences
    assert find(root, dataset="bp4d" if name == "bp4d" else "auto") == listing


@pytest.mark.parametrize("name", DATASETS)
def test_a_site_may_keep_a_data_set_one_folder_deeper(tmp_path: Path, name: str) -> None:
    if name == "4dme":
        pytest.skip("its table of labels is what tells it: it lies in the folder given")
    root = plant(tmp_path / "data/licensed", name).parent
    assert find(root, dataset="bp4d" if name == "bp4d" else "auto").dataset == name


@pytest.mark.parametrize("name", [n for n in DATASETS if n not in ("scanner", "4dme")])
def test_the_rule_of_scanners_gives_way(tmp_path: Path, name: str) -> None:
    root = plant(plant(tmp_path / "data", name), "scanner")
    assert find(root, dataset="bp4d" if name == "bp4d" else "auto").dataset == name


@pytest.mark.parametrize("name", DATASETS)
def test_why_names_the_data_set_and_counts(tmp_path: Path, name: str) -> None:
    why = _LAYOUTS[name].listing(plant(tmp_path / "data", name), Options()).why
    assert "subject" in why and "sequence" in why and "frame" in why


@pytest.mark.parametrize(
    "stray",
    [
        "holiday/2024/IMG_0001.jpg",
        "F001/readme.txt",
        "001/scan.stl",
        "12/4/4_001.ply",  # numbers are names of anything
        "FaceTalk/readme.ply",
        "clips/12/1.jpg",
    ],
)
def test_other_trees_are_not_taken_for_a_data_set(tmp_path: Path, stray: str) -> None:
    write(tmp_path / "data" / stray, "x")
    assert [name for name in DATASETS if _LAYOUTS[name].matches(tmp_path / "data")] == []


def test_two_data_sets_in_one_folder(tmp_path: Path) -> None:
    root = plant(plant(tmp_path / "data", "coma"), "facescape")
    with pytest.raises(ValueError, match=r"\(coma, facescape\).*--dataset coma or --dataset facescape"):
        find(root)
    assert find(root, dataset="coma").dataset == "coma"
