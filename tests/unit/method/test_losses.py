from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from napari_crln import config
from napari_crln.method.losses import (
    as_float,
    consistency_loss,
    masked_cross_entropy,
    ramp_up,
    soft_dice_loss,
    softmax_mse,
    supervised_loss,
)
from napari_crln.types import IGNORE

SHAPE = (2, 3, 4, 5, 6)


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def target() -> Tensor:
    return torch.randint(0, 3, (2, 4, 5, 6), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def sparse(target: Tensor) -> Tensor:
    """Only two slices are annotated."""
    sparse = torch.full_like(target, IGNORE)
    sparse[:, 1:3] = target[:, 1:3]
    return sparse.to(torch.int16)


def test_dice_is_monais(logits: Tensor, target: Tensor) -> None:
    monai = DiceLoss(
        include_background=False, to_onehot_y=True, softmax=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    torch.testing.assert_close(soft_dice_loss(logits, target), monai(logits, target.unsqueeze(1)))


def test_supervised_loss_is_half_of_torchs_cross_entropy_and_dice(logits: Tensor, target: Tensor) -> None:
    expected = 0.5 * (F.cross_entropy(logits, target) + soft_dice_loss(logits, target))
    torch.testing.assert_close(supervised_loss(logits, target), expected)


def test_sparse_cross_entropy_is_torchs_with_ignore_index(logits: Tensor, sparse: Tensor) -> None:
    expected = F.cross_entropy(logits, sparse.long(), ignore_index=IGNORE)
    torch.testing.assert_close(masked_cross_entropy(logits, sparse), expected)


def test_sparse_labels_equal_the_dense_loss_of_the_labelled_part(logits: Tensor, sparse: Tensor) -> None:
    torch.testing.assert_close(
        supervised_loss(logits, sparse), supervised_loss(logits[:, :, 1:3], sparse[:, 1:3])
    )


def test_unlabelled_voxels_change_no_loss_and_get_no_gradient(logits: Tensor, sparse: Tensor) -> None:
    loss = supervised_loss(logits, sparse)
    (gradient,) = torch.autograd.grad(loss, logits)
    labelled = (sparse != IGNORE).unsqueeze(1).expand_as(gradient)
    assert (gradient[~labelled] == 0).all()
    assert (gradient[labelled] != 0).any()
    changed = torch.where(labelled, logits.detach(), 100 * torch.randn(SHAPE))
    torch.testing.assert_close(supervised_loss(changed, sparse), loss.detach())


def test_without_any_label_the_loss_and_its_gradient_are_zero(logits: Tensor) -> None:
    loss = supervised_loss(logits, torch.full((2, 4, 5, 6), IGNORE))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0
    assert (gradient == 0).all()


def _two_samples() -> tuple[Tensor, Tensor, Tensor]:
    """Logits (2, 2, 1, 1, 4); labels with one ignored voxel in the second sample; confidences."""
    logits = torch.tensor([[[2.0, 0, 0, 1], [0, 0, 1, 0]], [[0.0, 3, 0, 0], [0, 0, 0, 2]]]).view(
        2, 2, 1, 1, 4
    )
    label = torch.tensor([[0, 1, 1, 0], [1, 0, 1, IGNORE]]).view(2, 1, 1, 4)
    confidence = torch.tensor([[0.99, 0.5, 0.98, 0.8], [0.97, 0.6, 0.7, 1.0]]).view(2, 1, 1, 4)
    return logits, label, confidence


def _cross_entropies() -> list[list[float]]:
    def ce(margin: float) -> float:
        return math.log(1 + math.exp(-margin))

    return [[ce(2), ce(0), ce(1), ce(1)], [ce(0), ce(3), ce(0)]]


def test_sample_weighting_by_hand() -> None:
    first, second = _cross_entropies()
    expected = (2 / 4 * sum(first) / 4 + 1 / 3 * sum(second) / 3) / 2
    settings = config.Consistency(weighting="sample", sample_threshold=0.97)
    assert consistency_loss(*_two_samples(), settings).item() == pytest.approx(expected, rel=1e-5)


def test_voxel_weighting_by_hand() -> None:
    first, second = _cross_entropies()
    expected = (first[0] + first[2] + first[3] + second[0]) / 7
    settings = config.Consistency(weighting="voxel", voxel_threshold=0.75)
    assert consistency_loss(*_two_samples(), settings).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighting", ["sample", "voxel"])
def test_consistency_without_a_valid_voxel_is_zero(weighting: str) -> None:
    logits, label, confidence = _two_samples()
    settings = config.Consistency(weighting=weighting)
    assert consistency_loss(logits, torch.full_like(label, IGNORE), confidence, settings) == 0


def test_ramp_up_is_the_sigmoid_shaped_one() -> None:
    assert ramp_up(0, 100) == pytest.approx(math.exp(-5))
    assert ramp_up(50, 100) == pytest.approx(math.exp(-1.25))
    assert ramp_up(100, 100) == ramp_up(10**6, 100) == ramp_up(0, 0) == 1.0


def test_softmax_mse_by_hand_over_kept_voxels() -> None:
    student = torch.log(torch.tensor([[0.8, 0.5], [0.2, 0.5]])).view(1, 2, 1, 1, 2)
    teacher = torch.log(torch.tensor([[0.6, 0.1], [0.4, 0.9]])).view(1, 2, 1, 1, 2)
    keep = torch.tensor([True, False]).view(1, 1, 1, 2)
    assert softmax_mse(student, teacher, keep).item() == pytest.approx(0.04, rel=1e-4)
    assert softmax_mse(student, teacher, ~keep).item() == pytest.approx(0.16, rel=1e-4)
    assert softmax_mse(student, teacher, torch.zeros_like(keep)) == 0


def test_losses_of_half_precision_logits_are_computed_in_float32(logits: Tensor, target: Tensor) -> None:
    half = logits.detach().bfloat16()
    assert supervised_loss(half, target).dtype == torch.float32
    torch.testing.assert_close(supervised_loss(half, target), supervised_loss(half.float(), target))


def test_scalars_are_read_by_name() -> None:
    assert as_float({"a": torch.tensor(1.5), "b": torch.tensor(2)}) == {"a": 1.5, "b": 2.0}
    assert as_float({}) == {}
