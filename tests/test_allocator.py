import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from streamgen.allocator import keep_large_blocks
if sys.argv[1] == "kept":
    assert keep_large_blocks()
np.ones(2**21, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(2**21, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")
def test_memory_is_faulted_in_once_and_not_for_every_picture() -> None:
    faults = {
        how: int(
            subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout
        )
        for how in ("kept", "returned")
    }
    assert faults["kept"] < 1000
    assert faults["returned"] > 10 * faults["kept"]
