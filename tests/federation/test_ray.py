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
@pytest.mark.usefixtures("one_thread")
def test_ray_and_in_process_agree_to_the_bit(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    federate(small_config, sites, tmp_path / "ray", engine="ray")
    federate(small_config, sites, tmp_path / "here", engine="in-process", logs=tmp_path / "logs")
    ray, here = (get_arrays(load(latest(tmp_path / name))[0]) for name in ("ray", "here"))
    for name, array in here.items():
        np.testing.assert_array_equal(ray[name], array, err_msg=name)
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
