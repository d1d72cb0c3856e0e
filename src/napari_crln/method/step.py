"""One training step of CRLN, top to bottom as the paper has it (docs/concepts/method.md, data flow).

Against textbook mean teacher: (1) DIM's prototypes, learned on the labelled batch, say voxel by voxel what
they know as clues M; (2) the teacher's logits are rectified by its own clues, z_r = z̄ + (1 - μ) M̄; (3) μ is
learned; (4) CPS pulls uncertain voxels towards class means mixed with prototypes; (5) prediction uses M too.
With clues, rectification and CPS off it is mean teacher with the same views: that is the control.
"""

from __future__ import annotations

import torch
from torch import Tensor

from napari_crln.method.cps import CpsTerm, cps_loss, valid_labels
from napari_crln.method.learner import Batch, Learner, Randomness, StepResult
from napari_crln.method.losses import consistency_loss, ramp_up, supervised_loss
from napari_crln.method.rectify import PseudoLabels, pseudo_labels, rectified_labels
from napari_crln.method.views import apply_strong, apply_weak, strong_draws, weak_draws
from napari_crln.nn.model import Output
from napari_crln.types import IGNORE


def crln_step(learner: Learner, batch: Batch, step: int, random: Randomness) -> StepResult:
    """Losses of one step; `step` counts from 0. Backward, optimiser, EMA and μ are the loop's.

    Shapes: images (B, 1, D, H, W), labels (B, D, H, W), logits and clues (B, C, D, H, W); B = 2 + 2.
    """
    method = learner.settings

    # 1. Views: weak for the labelled batch and the teacher; strong, on top of weak, for the student.
    x_l, y_l, x_u, valid_u = weak_views(learner, batch, random)

    # 2. Pseudo-labels: teacher on the weak view, with its own prototypes and DIM.
    z_u, clues_u = learner.teach(x_u)

    # 3. Rectification on logits, once M knows something.
    before = pseudo_labels(z_u.logits_BCDHW)
    pseudo = before
    if clues_u is not None and method.uses_rectification and step >= method.rectification.after:
        mu = learner.trust.mu.detach()
        pseudo = rectified_labels(z_u.logits_BCDHW, clues_u.map_BCDHW, mu, method.rectification)

    # 4. Student on the labelled batch and on the strong view; M on the labelled part.
    x_s, pseudo_s = strong_view(learner, x_u, pseudo, valid_u, random)
    out = learner.student(torch.cat([x_l, x_s]))
    z_l, z_s = out.logits_BCDHW.split([len(x_l), len(x_s)])

    # 5. Losses.
    terms = {"supervised": supervised_loss(z_l, y_l)}
    weight = method.consistency.weight * ramp_up(step, method.consistency.ramp_up)
    terms["consistency"] = weight * consistency_loss(z_s, *pseudo_s, method.consistency)
    labelled = None
    if method.uses_clues:
        m_l = learner.student.clues(out, count=len(x_l)).map_BCDHW
        terms["clues"] = supervised_loss(m_l, y_l)
        labelled = (z_l.detach(), m_l.detach(), y_l)
    anchors = None
    if method.uses_cps:
        loss, anchors = _cps(learner, out, y_l, pseudo_s, random)
        terms["cps"] = method.cps.weight * loss
    measures = _measures(learner, before, pseudo, valid_u) | _agreement(z_s, pseudo_s)
    return StepResult(torch.stack(list(terms.values())).sum(), terms, measures, labelled, anchors)


def weak_views(learner: Learner, batch: Batch, random: Randomness) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weak views (x_l, y_l, x_u, valid_u) of both batches."""
    settings, plane = learner.settings.views, (batch.x_l.shape[-2], batch.x_l.shape[-1])
    draws_l, draws_u = weak_draws(random, len(batch.x_l), len(batch.x_u), plane, settings)
    x_l, y_l = apply_weak(draws_l, batch.x_l, batch.y_l, settings)
    x_u, valid_u = apply_weak(draws_u, batch.x_u, batch.valid_u, settings)
    return x_l, y_l, x_u, valid_u


def strong_view(
    learner: Learner, x_u: Tensor, pseudo: PseudoLabels, valid_u: Tensor, random: Randomness
) -> tuple[Tensor, PseudoLabels]:
    """The student's view of the unlabelled batch, and the pseudo-labels moved with it."""
    label = torch.where(valid_u, pseudo.label_BDHW, IGNORE)
    settings = learner.settings.views
    if not settings.strong:
        return x_u, PseudoLabels(label, pseudo.confidence_BDHW)
    draws = strong_draws(random, len(x_u), (x_u.shape[-2], x_u.shape[-1]), settings)
    x_s, label_s, confidence_s = apply_strong(draws, x_u, label, pseudo.confidence_BDHW, settings)
    return x_s, PseudoLabels(label_s, confidence_s)


def _cps(learner: Learner, out: Output, y_l: Tensor, pseudo_s: PseudoLabels, random: Randomness) -> CpsTerm:
    head, dim = learner.student.head, learner.student.dim
    assert head is not None
    assert dim is not None
    settings = learner.settings.cps
    label = valid_labels(y_l, *pseudo_s, settings)
    features = out.stages[max(out.stages)]
    probability = out.logits_BCDHW.detach().softmax(1)
    return cps_loss(features, probability, label, head, dim, settings, random.torch(label.device))


@torch.no_grad()
def _measures(
    learner: Learner, before: PseudoLabels, after: PseudoLabels, valid_u: Tensor
) -> dict[str, Tensor]:
    """Shares of the valid voxels: changed by rectification, and confident; mean confidence; μ."""
    count = valid_u.sum().clamp(min=1)
    threshold = learner.settings.consistency.sample_threshold
    measures = {
        "confident": ((after.confidence_BDHW >= threshold) & valid_u).sum() / count,
        "confidence": (after.confidence_BDHW * valid_u).sum() / count,
    }
    if learner.settings.uses_rectification:
        measures["changed"] = ((before.label_BDHW != after.label_BDHW) & valid_u).sum() / count
        measures["mu"] = learner.trust.mu
    return measures


@torch.no_grad()
def _agreement(z_s: Tensor, pseudo_s: PseudoLabels) -> dict[str, Tensor]:
    """Share of valid voxels of the strong view where the student agrees with the pseudo-label."""
    valid = pseudo_s.label_BDHW != IGNORE
    same = (z_s.argmax(1) == pseudo_s.label_BDHW) & valid
    return {"agreement": same.sum() / valid.sum().clamp(min=1)}
