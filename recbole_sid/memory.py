"""Memory of the process: the C library keeps what it frees, and what the peak was."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's <malloc.h>
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc reuse freed blocks of up to 1 GiB instead of giving each back to the system.

    By default it maps every large tensor anew, and the page faults of that took half of the time
    of beam search on a CPU. Elsewhere than on glibc nothing happens.

    Returns:
        Whether the C library took the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES) and mallopt(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES - 1)
    )


def peak_memory_mb() -> float | None:
    """The most memory that this process has held, in MiB; None where Python cannot tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 2**20, 1)
