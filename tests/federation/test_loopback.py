"""A real SuperLink and two real SuperNodes on 127.0.0.1: killed in the midst of a round, started again, and nothing is lost.

The whole matrix, process by phase, is `python -m tests.benchmarks.kill_matrix`.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from server.run_log import read
from simulations.engines import federate
from smile.config import FederationConfig, SmileConfig
from smile.site.disk import held
from tests.federation.loopback import Loopback, outcome, wait_for

ROUNDS = 2
PATIENCE = 120.0  # seconds, for a busy machine; a quiet one takes tenths of it


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_superlink_killed_in_the_midst_of_a_round_loses_nothing(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    """It dies with its ServerApp while sites train; both start again, and `federation.resume` goes on after round 1."""
    federation = FederationConfig(rounds=ROUNDS, bits=8, personal="norms", optimiser="kept")
    config, output = dataclasses.replace(small_config, federation=federation), tmp_path / "out"
    federate(config, sites, tmp_path / "whole", engine="in-process", logs=tmp_path / "logs")
    begun = dataclasses.replace(federation, output=str(output))
    again = dataclasses.replace(federation, resume=str(output))
    with Loopback(tmp_path / "daemons", sites) as loopback:
        loopback.flwr_run(dataclasses.replace(config, federation=begun))
        wait_for("round 1", (output / "log.jsonl").exists, seconds=PATIENCE)
        wait_for("a ClientApp", lambda: loopback.processes("east", "flwr-clientapp"), seconds=PATIENCE)
        assert loopback.kill("superlink") >= 3  # its SuperExec and its ServerApp too
        assert len(read(output / "log.jsonl")) == 1
        loopback.start_superlink()
        loopback.flwr_run(dataclasses.replace(config, federation=again))
        wait_for("round 2", lambda: len(read(output / "log.jsonl")) == ROUNDS, seconds=PATIENCE)
    found, expected = outcome(output), outcome(tmp_path / "whole")
    assert found[1] == expected[1]
    assert [name for name in expected[0] if not np.array_equal(found[0][name], expected[0][name])] == []
    assert found[0].keys() == expected[0].keys()
    assert [line["sites"][0]["site"] for line in found[1]] == ["east"] * ROUNDS  # the registered name


def test_of_two_runs_in_one_folder_the_second_is_refused(
    sites: list[Path], tmp_path: Path, small_config: SmileConfig
) -> None:
    """A ServerApp outlives its SuperLink under process isolation: whoever then resumes would write beside it."""
    output = tmp_path / "out"
    with held(output / ".lock", "flwr run"):
        for resume in (False, True):
            with pytest.raises(ValueError, match="another `flwr run` is at work"):
                federate(small_config, sites, output, engine="in-process", resume=resume)
    with pytest.raises(ValueError, match="holds no run"):
        federate(small_config, sites, tmp_path / "typo", engine="in-process", resume=True)
    assert not (tmp_path / "typo").exists()
