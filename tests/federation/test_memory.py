"""The coordinator's memory does not grow with the number of sites: three models and a little, however many answer.

A small edition of tests/benchmarks/server_memory.py, in a process of its own, which says how it is counted.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smile.config import FederationConfig, SmileConfig
from tests.benchmarks.server_memory import VARIANTS, Replies, memory, write_reply

ROOT = Path(__file__).parent.parent.parent
SITES = 10
MODEL = 16 * 2**20  # bytes
BESIDE = 12 * 2**20  # of blocks that are averaged together, of one array in float64, of Python itself
CASES = ("mean/32", "trimmed-mean/32", "multi-krum/32", "mean/16", "mean/4")


def model() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    large = {
        f"layer.{n}": random.standard_normal((256, MODEL // 32 // 256 // 4), np.float32) for n in range(32)
    }
    return {**large, "gain": np.ones(7, np.float32), "scale": np.asarray(2.0, np.float32)}


def alone(folder: str) -> None:
    """The rounds of all cases in this process; prints by how much its memory had grown at most after each."""
    from flwr.app import ConfigRecord

    from server import run_state, strategy

    strategy.AT_ONCE = 1  # one reply at a time, as for models above that size
    before, grown = memory("VmRSS"), {}
    for number, case in enumerate(CASES):
        rule, _, bits = case.partition("/")
        rounds = 1 if bits == "32" else 2  # of packed messages what was lost is kept from the first on
        config = SmileConfig(
            federation=FederationConfig(rounds=rounds, min_sites=SITES, average=rule, bits=int(bits))
        )
        output = Path(folder) / f"out-{number}"
        state = run_state.begin(model(), config)
        lines: list[dict[str, Any]] = []
        strategy.SmileStrategy(
            config.federation,
            state,
            shared=list(state.arrays),
            moment_shapes={},
            seed=0,
            output=output,
            after_round=lambda done, output=output, config=config: run_state.save(output, done, config, {}),  # type: ignore[misc]
        ).run(Replies(Path(folder), bits=int(bits), sites=SITES), ConfigRecord(), watch=lines.append)
        assert [(line["averaged"], len(line["sites"])) for line in lines] == [(True, SITES)] * rounds, lines
        grown[case] = memory("VmHWM") - before
        del state
        print(json.dumps(grown), flush=True)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak as Linux tells it")
def test_the_peak_is_three_models_for_any_number_of_replies(tmp_path: Path) -> None:
    arrays = model()
    for bits in (32, 16, 4):
        for variant in range(VARIANTS):
            write_reply(tmp_path, arrays, bits=bits, variant=variant)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            # Nothing may hang on when the garbage collector comes by.
            f"import gc; gc.disable(); from tests.federation import test_memory; test_memory.alone({str(tmp_path)!r})",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    size = sum(array.nbytes for array in arrays.values())
    grown = json.loads(done.stdout.splitlines()[-1])
    models = {case: (found - BESIDE) / size for case, found in grown.items()}
    assert max(models.values()) <= 3, models
    assert SITES * size > 3 * size + BESIDE  # else keeping all of them would pass too
