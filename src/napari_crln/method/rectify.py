"""Rectification: z_r = z̄ + (1 - μ) M̄, and the scalar μ that says how much the teacher is trusted over the clues.

Paper, section 3.2. The sum is of logits: a sum of a probability and a logit has no meaning
(`on = "probabilities"` is kept as an ablation).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from napari_crln import config
from napari_crln.method.losses import supervised_loss


class PseudoLabels(NamedTuple):
    """Hard pseudo-labels and their confidence."""

    #: Class indices, (B, D, H, W); IGNORE where padding invented the voxel.
    label_BDHW: Tensor
    #: max softmax, (B, D, H, W), 0-1.
    confidence_BDHW: Tensor


class Trust(nn.Module):
    """μ = sigmoid(a), one parameter, fitted by its own plain SGD on labelled voxels."""

    def __init__(self, settings: config.Rectification) -> None:
        super().__init__()
        initial = math.log(settings.mu_initial / (1 - settings.mu_initial))
        self.a = nn.Parameter(torch.tensor(initial))
        self.learning_rate = settings.mu_learning_rate

    @property
    def mu(self) -> Tensor:
        """μ in (0, 1), a scalar."""
        return self.a.sigmoid()

    def fit(
        self, logits_BCDHW: Tensor, clues_BCDHW: Tensor, target_BDHW: Tensor, taken: Tensor | None = None
    ) -> None:
        """One step on ½ (CE + Dice) of z + (1 - μ) M with z and M detached; they get no gradient.

        A gradient that is NaN or infinite is left out: it would stay in μ for good, and on a GPU the loop
        learns of a non-finite step only when it next reads the losses. `taken`, a scalar on the device, says
        whether the step as a whole is; None: it is.
        """
        with torch.enable_grad():
            fused = fuse(logits_BCDHW.detach().float(), clues_BCDHW.detach().float(), self.mu)
            (gradient,) = torch.autograd.grad(supervised_loss(fused, target_BDHW), self.a)
        with torch.no_grad():
            step = self.learning_rate * gradient.nan_to_num(0.0, 0.0, 0.0)
            self.a.sub_(step if taken is None else step * taken)


def fuse(logits_BCDHW: Tensor, clues_BCDHW: Tensor, mu: Tensor | float) -> Tensor:
    """z + (1 - μ) M, (B, C, D, H, W)."""
    return logits_BCDHW + (1 - mu) * clues_BCDHW


def rectify(logits_BCDHW: Tensor, clues_BCDHW: Tensor, mu: Tensor, settings: config.Rectification) -> Tensor:
    """Rectified logits z_r of the teacher, (B, C, D, H, W)."""
    if settings.on == "probabilities":
        logits_BCDHW = logits_BCDHW.softmax(1)
    return fuse(logits_BCDHW, clues_BCDHW, mu)


def rectified_labels(
    logits_BCDHW: Tensor, clues_BCDHW: Tensor, mu: Tensor, settings: config.Rectification
) -> PseudoLabels:
    """ȳ_r and its confidence: of the sum z_r, or of the mean of z̄ and M̄ with weights 1 and 1 - μ.

    Either has the same label. A sum of two trained logits is surer than it is right: 98 % of voxels pass 0.97.
    """
    temperature = 2 - mu if settings.confidence == "mean" else 1.0
    return pseudo_labels(rectify(logits_BCDHW, clues_BCDHW, mu, settings), temperature)


def pseudo_labels(logits_BCDHW: Tensor, temperature: Tensor | float = 1.0) -> PseudoLabels:
    """ȳ = argmax softmax z and c = max softmax (z / temperature)."""
    confidence, label = (logits_BCDHW.float() / temperature).softmax(1).max(1)
    return PseudoLabels(label, confidence)
