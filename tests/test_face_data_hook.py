"""The pre-commit hook refuses face data, and none is in git."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIG = (ROOT / ".pre-commit-config.yaml").read_text()
PATTERN = re.compile(next(line for line in CONFIG.splitlines() if "files: " in line).split("files: ")[1])
SIMULATED = re.compile(CONFIG.split("exclude: ")[1].split(" #")[0])  # pictures of the documentation


@pytest.mark.parametrize(
    "name",
    ["a/F001/Angry/000.wrl", "scan.OBJ", "x.ply", "bs000_N_N_0.bnt", "views.npz", "model.safetensors", "a.npy", "m.onnx",
     "face.jpg", "texture.BMP", "02463d546.abs.gz", "w.pt", "plan.engine", "F001.zip", "a.lm3", "a.bnd",
     "site/contact_sheet.png", "site/index.csv", "outbox.csv", "site.log"],
)  # fmt: skip
def test_face_data_is_refused(name: str) -> None:
    assert PATTERN.search(name)


@pytest.mark.parametrize(
    "name", ["smile/model.py", "README.md", "smile/towers/smile-small.json", "docs/objective.md"]
)
def test_source_is_not(name: str) -> None:
    assert not PATTERN.search(name)


def test_of_pictures_only_simulated_ones_of_the_documentation_pass() -> None:
    assert SIMULATED.search("docs/images/simulated-contact-sheet.png")
    for name in ("docs/images/contact-sheet.png", "simulated-a.png", "docs/images/simulated-a.jpg"):
        assert not SIMULATED.search(name) and PATTERN.search(name)


def test_no_face_data_is_tracked() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not [name for name in names.splitlines() if PATTERN.search(name) and not SIMULATED.search(name)]
