"""Peers of CRLN on the same loop: supervised, UA-MT and plain CutMix consistency; `bcp` has a file of its own.

Mean teacher has no function of its own: it is `crln_step` with clues, rectification and CPS off.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from napari_crln import config
from napari_crln.method.bcp import bcp_step
from napari_crln.method.learner import Batch, Learner, Randomness, StepResult
from napari_crln.method.losses import ramp_up, softmax_mse, supervised_loss
from napari_crln.method.step import crln_step, weak_views

Step = Callable[[Learner, Batch, int, Randomness], StepResult]


def supervised_step(learner: Learner, batch: Batch, _step: int, random: Randomness) -> StepResult:
    """The labelled batch alone, on the same weak views as every other method."""
    x_l, y_l, _, _ = weak_views(learner, batch, random)
    loss = supervised_loss(learner.student(x_l).logits_BCDHW, y_l)
    return StepResult(loss, {"supervised": loss})


def ua_mt_step(learner: Learner, batch: Batch, step: int, random: Randomness) -> StepResult:
    """Uncertainty-aware mean teacher (Yu et al., MICCAI 2019, equations 1-4).

    Student and teacher see the weak view with different noise; the squared difference of their probabilities
    counts where the entropy of the teacher's mean over stochastic passes is below a threshold that ramps up
    from ¾ to 1 of its maximum, ln C.
    """
    settings = learner.settings.ua_mt
    x_l, y_l, x_u, valid_u = weak_views(learner, batch, random)
    out = learner.student(torch.cat([x_l, _noisy(x_u, settings.noise_sigma)]))
    z_l, z_u = out.logits_BCDHW.split([len(x_l), len(x_u)])

    target, _ = learner.teach(_noisy(x_u, settings.noise_sigma))
    entropy = _entropy(_mean_of_passes(learner, x_u, settings))
    ramp = ramp_up(step, settings.ramp_up)
    certain = (entropy < (0.75 + 0.25 * ramp) * math.log(z_u.shape[1])) & valid_u

    terms = {
        "supervised": supervised_loss(z_l, y_l),
        "consistency": settings.weight * ramp * softmax_mse(z_u, target.logits_BCDHW, certain),
    }
    share = certain.sum() / valid_u.sum().clamp(min=1)
    return StepResult(torch.stack(list(terms.values())).sum(), terms, {"confident": share})


def plain_cutmix(method: config.Method) -> config.Method:
    """Mean teacher whose strong view is CutMix and nothing else (French et al., BMVC 2020)."""
    views = method.views.model_copy(
        update={
            "strong_scale": (1.0, 1.0),
            "cutmix": 1.0,
            "strong_brightness_p": 0.0,
            "noise_p": 0.0,
            "strong_flip_p": 0.0,
        }
    )
    return method.model_copy(update={"views": views})


#: The step of each method.
STEPS: dict[config.MethodName, Step] = {
    "supervised": supervised_step,
    "mean-teacher": crln_step,
    "cutmix": crln_step,
    "ua-mt": ua_mt_step,
    "bcp": bcp_step,
    "crln": crln_step,
}


def _noisy(x: Tensor, sigma: float) -> Tensor:
    return x + (torch.randn_like(x) * sigma).clamp(-2 * sigma, 2 * sigma)


@torch.no_grad()
def _mean_of_passes(learner: Learner, x_u: Tensor, settings: config.UncertaintyMeanTeacher) -> Tensor:
    """Mean probabilities of noisy passes with dropout on, BatchNorm as the teacher's mode says."""
    for module in learner.teacher.modules():
        if isinstance(module, nn.Dropout | nn.Dropout3d):
            module.train()
    passes = [
        learner.teacher(_noisy(x_u, settings.noise_sigma)).logits_BCDHW.float().softmax(1)
        for _ in range(settings.passes)
    ]
    return torch.stack(passes).mean(0)


def _entropy(probability_BCDHW: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(probability_BCDHW).sum(1)
    return entropy
