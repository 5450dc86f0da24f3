import sys

import pytest
import torch

from recbole_sid.memory import keep_freed_memory, peak_memory_mb


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_the_c_library_takes_the_setting_and_reuses_a_large_block():
    assert keep_freed_memory()
    import resource

    def faults() -> int:
        """Pages that the system had to map to fill 64 MiB: 16,384 when all of them are new."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(64 * 2**20, dtype=torch.uint8)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    faults()
    assert min(faults() for _ in range(10)) < 1000


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
