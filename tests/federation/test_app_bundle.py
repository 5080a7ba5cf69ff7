"""What `flwr build` ships to the SuperLink and to every hospital: the allow-list, to the file."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from simulations.engines import PRIVATE_ENVIRONMENT

ROOT = Path(__file__).parent.parent.parent
SHIPPED = [*ROOT.glob("server/**/*.py"), *ROOT.glob("client/**/*.py"), *ROOT.glob("smile/**/*.py")]
SHIPPED += [*ROOT.glob("smile/towers/*.json"), ROOT / "LICENSE", ROOT / "pyproject.toml"]


def test_the_app_bundle_holds_the_allow_list_and_nothing_else(tmp_path: Path) -> None:
    checkout = tmp_path / "smile-federated"
    keep = shutil.ignore_patterns(".git", ".venv", ".flwr", "runs", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, checkout, ignore=keep)
    # What lies about in a researcher's checkout and must never travel.
    (checkout / "patients.json").write_text('{"name": "secret"}')
    (checkout / "smile" / "subjects.csv").write_text("secret")
    (checkout / "client" / "scan.obj").write_text("v 0 0 0")
    command = [str(Path(sys.executable).with_name("flwr")), "build", "--app", str(checkout)]
    environment = {**os.environ, **PRIVATE_ENVIRONMENT, "FLWR_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle,) = tmp_path.glob("*.fab")
    expected = {path.relative_to(ROOT).as_posix() for path in SHIPPED if "__pycache__" not in path.parts}
    assert set(zipfile.ZipFile(bundle).namelist()) == expected | {".info/CONTENT"}
