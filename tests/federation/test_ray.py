"""`flwr run` on Flower's simulation runtime gives what the in-process engine gives."""

from pathlib import Path

import numpy as np
import pytest

from server.run_log import read
from simulations.engines import federate
from smile.checkpoint import latest, load
from smile.config import SmileConfig
from smile.protocol import get_arrays


@pytest.mark.slow
def test_ray_and_in_process_agree(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    federate(small_config, sites, tmp_path / "ray", engine="ray")
    federate(small_config, sites, tmp_path / "here", engine="in-process", logs=tmp_path / "logs")
    ray, here = (get_arrays(load(latest(tmp_path / name))[0]) for name in ("ray", "here"))
    # Node numbers are random on Ray, and with them the order of the sum; threads change the last bits too.
    for name, array in here.items():
        np.testing.assert_allclose(ray[name], array, atol=1e-4, err_msg=name)
    log = read(tmp_path / "ray" / "log.jsonl")
    assert [len(entry["sites"]) for entry in log] == [2, 2]
    assert all((site / "outbox.csv").is_file() for site in sites)


@pytest.mark.slow
def test_a_run_that_fails_says_where_to_look(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    (sites[0] / "manifest.json").unlink()
    with pytest.raises(RuntimeError, match=r"flwr-run\.log"):
        federate(small_config, sites, tmp_path / "out", engine="ray")
