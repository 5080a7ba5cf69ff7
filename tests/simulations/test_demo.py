"""`python -m simulations` as a researcher types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def simulate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulations", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def small_demo(hospitals: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journey over two raw folders: a few steps, one seed, in process."""
    out = tmp_path_factory.mktemp("demo") / "out"
    done = simulate(
        "demo", "--sites", *hospitals, ROOT / "README.md", "--out", out, "--seeds", 1, "--engine", "in-process", "--json",
        "--set", "training.local-steps=2", "--set", "federation.rounds=2", "--set", "views.size=32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "summary.json").read_text())
    return out


def test_the_summary_says_what_was_measured(small_demo: Path) -> None:
    summary = json.loads((small_demo / "summary.json").read_text())
    for method in ("linear_probe", "zero_shot", "knn"):
        groups = {"untrained", "single_site_mean", "pooled", "federated"}
        assert groups | {"spread", "values"} == set(summary[method])
        assert all(0 <= summary[method][group] <= 1 for group in groups)
    assert summary["parity_max_abs"] < 1e-4
    assert (summary["rounds"], summary["clients"]) == (2, 2)
    assert summary["bytes_per_round"] > 1e6 and summary["peak_rss_mib"] > 100 and summary["seconds"] > 1
    assert summary["chance"] == pytest.approx(1 / len(summary["classes"]))
    assert {"flwr", "torch", "python"} <= set(summary["versions"])


def test_the_report_is_one_self_contained_page(small_demo: Path) -> None:
    page = (small_demo / "report.html").read_text()
    assert (
        page.count("data:image/png;base64,") == 3
    )  # bars, confusions, losses; no contact sheet of given scans
    assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "supervised by another name" in page


def test_the_bundle_of_given_scans_holds_no_person(small_demo: Path) -> None:
    assert "seeded" in json.loads((small_demo / "bundle" / "manifest.json").read_text())["golden"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--sites", "/nowhere"), "/nowhere is not a folder"),
        (("--set", "training.speed=1"), "training.speed"),
        (("--set", "training.batch-size=one"), "training.batch-size"),
        (("--seeds", 0), "at least 1 seed"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments: tuple, word: str, tmp_path: Path) -> None:
    done = simulate("demo", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert word in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_files_of_others_are_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "precious").write_text("scan")
    done = simulate("demo", "--out", tmp_path)
    assert done.returncode == 2 and "did not write" in done.stderr
    assert (tmp_path / "raw" / "precious").read_text() == "scan"
