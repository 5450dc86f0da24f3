"""Precision: the setting decides, `auto` asks the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_sid.precision import has_bf16, resolve_precision


@pytest.mark.parametrize(
    ("amx", "avx", "expected"),
    [(True, False, True), (False, True, True), (False, False, False)],
)
def test_auto_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    assert has_bf16() is expected
    dtype = torch.bfloat16 if expected else torch.float32
    assert resolve_precision("auto", "cpu") is dtype
    assert resolve_precision("auto", torch.device("mps")) is torch.float32


def test_a_named_precision_is_taken() -> None:
    assert resolve_precision("float32", "cpu") is torch.float32
    assert resolve_precision("bf16", "cpu") is torch.bfloat16


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="asks Linux for the truth")
def test_agrees_with_the_flags_of_the_processor() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert has_bf16() == ("amx_bf16" in flags or "avx512_bf16" in flags)


def test_an_old_pytorch_counts_as_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert not has_bf16()
