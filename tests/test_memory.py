import subprocess
import sys

import pytest
import torch

from recbole_sid.memory import peak_memory_mb

# In a process of its own: an allocation that failed in another test moves the thread for good to
# one of glibc's secondary arenas, which hold no block of this size.
REUSE = """
import resource
import torch
from recbole_sid.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20, dtype=torch.uint8)  # 16,384 pages when all of them are new
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert not KEEP or keep_freed_memory()
print(min(faults() for _ in range(20)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize(("keep", "reused"), [(True, True), (False, False)])
def test_the_c_library_takes_the_setting_and_reuses_a_large_block(keep, reused):
    program = REUSE.replace("KEEP", str(keep))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert (int(ended.stdout) < 1000) == reused


@pytest.mark.skipif(sys.platform == "win32", reason="Python cannot tell there")
def test_peak_memory_counts_what_was_touched():
    before = peak_memory_mb()
    block = torch.ones(300 * 2**20, dtype=torch.uint8)
    after = peak_memory_mb()
    del block
    assert before is not None
    assert after is not None
    assert after >= 300
    assert peak_memory_mb() >= after
