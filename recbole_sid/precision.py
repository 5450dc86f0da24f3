"""Which floating-point type to compute in: a setting, a device, an answer."""

from __future__ import annotations

import torch


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16).

    Without such hardware bfloat16 is emulated and slower than float32. A PyTorch too old to be
    asked counts as "no".
    """
    # Every x86 processor with AMX tiles has AMX-BF16 too.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in probes)


def resolve_precision(setting: str, device: torch.device | str) -> torch.dtype:
    """The type to compute in.

    Args:
        setting: ``float32``, ``bf16``, or ``auto``: bfloat16 where ``device`` has it in hardware.
        device: where the computation runs.
    """
    if setting == "auto":
        kind = torch.device(device).type
        if kind == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = kind == "cpu" and has_bf16()
        return torch.bfloat16 if native else torch.float32
    return {"float32": torch.float32, "bf16": torch.bfloat16}[setting]
