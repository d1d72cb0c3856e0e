from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from napari_crln.method.teacher import ema_decay, make_teacher, update_teacher


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))


def test_warm_up_then_the_decay() -> None:
    assert [ema_decay(step, 0.99) for step in (0, 1, 3)] == pytest.approx([0.0, 0.5, 0.75])
    assert ema_decay(98, 0.99) == pytest.approx(1 - 1 / 99)
    assert ema_decay(99, 0.99) == ema_decay(10**6, 0.99) == 0.99


def test_during_warm_up_the_teacher_is_the_plain_mean_of_students() -> None:
    """Decay 1 - 1/(t + 1) makes each student count alike."""
    model = student()
    teacher, seen = make_teacher(model), []
    for step in range(5):
        with torch.no_grad():
            model[0].weight.normal_()
            model[1].running_mean.normal_()
        seen.append((model[0].weight.detach().clone(), model[1].running_mean.clone()))
        update_teacher(teacher, model, step, decay=0.99)
    torch.testing.assert_close(teacher[0].weight, torch.stack([w for w, _ in seen]).mean(0))
    torch.testing.assert_close(teacher[1].running_mean, torch.stack([m for _, m in seen]).mean(0))


def test_after_warm_up_the_closed_form_of_the_geometric_mean() -> None:
    model, decay = student(), 0.8
    teacher = make_teacher(model)
    start = teacher[1].running_var.clone()
    values = [torch.full((2,), float(v)) for v in (3, 5, 7)]
    for step, value in enumerate(values):
        model[1].running_var.copy_(value)
        update_teacher(teacher, model, 100 + step, decay)
    n = len(values)
    expected = decay**n * start + sum((1 - decay) * decay ** (n - 1 - i) * v for i, v in enumerate(values))
    torch.testing.assert_close(teacher[1].running_var, expected)


def test_counters_are_copied() -> None:
    model = student().train()
    teacher = make_teacher(model)
    for step in range(3):
        model(torch.randn(2, 1, 4, 4, 4))
        update_teacher(teacher, model, step, 0.9)
    assert teacher[1].num_batches_tracked == 3


def test_the_first_step_makes_the_teacher_the_student_and_they_share_no_memory() -> None:
    model = student()
    teacher = make_teacher(model)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert not torch.equal(teacher[0].weight, model[0].weight)
    update_teacher(teacher, model, 0, 0.99)
    assert torch.equal(teacher[0].weight, model[0].weight)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert not torch.equal(teacher[0].weight, model[0].weight)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("step", [0, 1, 500])
@pytest.mark.parametrize("taken", [True, False])
def test_a_verdict_on_the_device_takes_the_step_or_leaves_it_to_the_bit(step: int, taken: bool) -> None:
    model = student()
    teacher = make_teacher(model)
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias, model[1].running_mean, model[1].running_var):
            tensor.normal_()
    plain = copy.deepcopy(teacher)
    if taken:
        update_teacher(plain, model, step, 0.99)
    update_teacher(teacher, model, step, 0.99, taken=torch.tensor(taken))
    expected = plain.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in teacher.state_dict().items())
