"""The guard's two ways: at once, as on a CPU, and deferred, as on a GPU, both on CPU tensors here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from napari_crln.engine.guard import StepGuard

NAN, INF = float("nan"), float("inf")


class Refused(Exception):
    pass


def refusal(found: str, step: int) -> Exception:
    return Refused(f"{found} at {step}")


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.BatchNorm3d(2), nn.Conv3d(2, 1, 1))


def forward(network: nn.Module, fill: float) -> None:
    network(torch.full((2, 2, 2, 2, 2), fill))


def fail(network: nn.Module, error: type[BaseException]) -> None:
    before = buffers(network)
    forward(network, 5.0)
    assert not same(buffers(network), before)
    raise error


def buffers(network: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in network.buffers()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt])
def test_a_step_that_fails_leaves_the_statistics_of_the_one_before(
    network: nn.Module, error: type[BaseException]
) -> None:
    guard = StepGuard(network, False, refusal)
    with guard.undoing():
        forward(network, 1.0)
    before = buffers(network)
    with pytest.raises(error), guard.undoing():
        fail(network, error)
    assert same(buffers(network), before)


@pytest.mark.parametrize("norm", [NAN, INF])
def test_at_once_the_step_is_refused_by_name_and_undone(network: nn.Module, norm: float) -> None:
    guard = StepGuard(network, False, refusal)
    before = buffers(network)
    terms = {"total": torch.tensor(norm), "clues": torch.tensor(1.0), "cps": torch.tensor(norm)}

    def step() -> None:
        with guard.undoing():
            forward(network, 5.0)
            assert not same(buffers(network), before)
            guard.judge(torch.tensor(norm), terms, 7)

    with pytest.raises(Refused, match=f"loss total is {norm}, loss cps is {norm} at 7"):
        step()
    assert same(buffers(network), before)


def test_deferred_the_bad_steps_leave_nothing_the_good_ones_do_and_the_first_is_named(
    network: nn.Module,
) -> None:
    guard, twin = StepGuard(network, True, refusal), nn.Sequential(nn.BatchNorm3d(2), nn.Conv3d(2, 1, 1))
    for step, (fill, norm) in enumerate([(1.0, 2.0), (NAN, NAN), (3.0, 1.0), (5.0, INF), (2.0, 1.0)]):
        with guard.undoing():
            forward(network, fill)
            guard.judge(torch.tensor(norm), {}, step)
        if step in (0, 2, 4):
            forward(twin, fill)
    assert same(buffers(network), buffers(twin))
    with pytest.raises(Refused, match="the gradient's norm is nan at 1"):
        guard.check({"total": 1.0}, NAN)


def test_deferred_it_looks_at_no_value_until_asked(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading one would make a GPU catch up with the program, at every step."""

    def read(*_: object) -> None:
        raise AssertionError("a value was read")

    guard, norm = StepGuard(network, True, refusal), torch.tensor(NAN)
    for reading in ("__bool__", "__float__", "__int__", "item", "tolist", "cpu"):
        monkeypatch.setattr(Tensor, reading, read)
    with guard.undoing():
        guard.judge(norm, {"total": norm}, 3)


def test_deferred_a_second_interval_starts_anew(network: nn.Module) -> None:
    guard = StepGuard(network, True, refusal)
    guard.judge(torch.tensor(NAN), {}, 4)
    with pytest.raises(Refused, match="at 4"):
        guard.check({}, NAN)
    guard.check({"total": 1.0}, 1.0)
    guard.judge(torch.tensor(NAN), {}, 9)
    with pytest.raises(Refused, match="at 9"):
        guard.check({}, NAN)


def test_a_network_without_statistics_is_guarded_too() -> None:
    guard = StepGuard(nn.Linear(1, 1), True, refusal)
    with guard.undoing():
        guard.judge(torch.tensor(INF), {}, 2)
    with pytest.raises(Refused, match="at 2"):
        guard.check({}, INF)
