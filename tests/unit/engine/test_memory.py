from __future__ import annotations

import pytest
import torch

from napari_crln.engine.memory import peak_memory_mb


def test_the_peak_rises_by_what_is_taken_and_stays() -> None:
    cpu = torch.device("cpu")
    before = peak_memory_mb(cpu)
    assert 20 < before < 100_000
    block = torch.ones(int(before * 2) << 18)  # twice the peak so far, float32
    size = block.numel() * 4 / 2**20
    del block
    assert peak_memory_mb(cpu) >= size


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_what_torch_allocated() -> None:
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats(device)
    before = peak_memory_mb(device)
    block = torch.ones(64 << 18, device=device)
    del block
    assert peak_memory_mb(device) == pytest.approx(before + 64, abs=2)
