from __future__ import annotations

import pytest
import torch

from napari_crln.config import Engine
from napari_crln.engine.device import autocast, cautions, choose_device, use_threads
from napari_crln.errors import ConfigError


def test_named_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}


def test_an_absent_device_is_refused_with_the_reason() -> None:
    absent = "cuda:99" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ConfigError, match="Use auto or cpu"):
        choose_device(absent)


@pytest.mark.parametrize(("precision", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_on_a_cpu(precision: str, dtype: torch.dtype) -> None:
    with autocast(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(("device", "precision", "warned"), [("cpu", "bf16", True), ("cpu", "auto", False)])
def test_bf16_on_a_cpu_is_warned_of(device: str, precision: str, warned: bool) -> None:
    told = cautions(torch.device(device), precision)
    assert any("set engine.precision to fp32" in line for line in told) == warned


def test_threads_are_set_where_named() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(Engine(threads=None))
        assert torch.get_num_threads() == before
        use_threads(Engine(threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
