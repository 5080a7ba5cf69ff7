"""The heap keeps what is freed: the next arrays cost no pages."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from smile.heap import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
def work():
    for _ in range(20):
        arrays = [np.ones(1 << 17) for _ in range(8)]  # a megabyte each, freed together
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the heap of glibc")
def test_freed_memory_is_used_again_without_the_kernel() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, check=True).stdout)
        for how in ("plain", "kept")
    }
    assert faults["kept"] < 0.1 * faults["plain"]
