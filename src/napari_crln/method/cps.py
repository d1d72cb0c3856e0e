"""Cooperative Positive Supervision: pull uncertain voxels to an unassertive positive (paper, section 3.3).

What is special against a pixel-contrast loss in the manner of ReCo or U2PL:

- anchors are the *uncertain* voxels of a class: valid ones that the student is not yet sure of;
- the positive is *unassertive*: the batch's class mean, mixed by a random ξ with the class's prototypes,
  v⁺ = (r_m + ξ mean_R(Pᶜ)) / (1 + ξ);
- negatives come from the classes that look alike more often.

Sampling uses random keys and top-k instead of lists of indices, so every shape is fixed and nothing waits
for the device. Each class offers a pool of up to `negatives` voxels, whose mean is r_m; each anchor draws its
negatives' classes, then voxels from those pools. Similarities of anchors and pools are one matrix product,
from which draws are gathered.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_crln import config
from napari_crln.nn.dim import DynamicInteraction
from napari_crln.nn.model import RepresentationHead
from napari_crln.types import IGNORE


class Sample(NamedTuple):
    """Up to k voxels a class, drawn without replacement."""

    #: Indices into the flattened voxels, (C, k).
    index_Ck: Tensor
    #: Whether the draw is a voxel of the class or filler, (C, k).
    real_Ck: Tensor


class CpsTerm(NamedTuple):
    """The loss and what it was made from."""

    loss: Tensor
    #: Flat voxel indices of the anchors in the batch, (C, anchors); filler where not `real`.
    anchors: Sample


def cps_loss(
    features_BKDHW: Tensor,
    probability_BCDHW: Tensor,
    label_BDHW: Tensor,
    head: RepresentationHead,
    dim: DynamicInteraction,
    settings: config.Cps,
    generator: torch.Generator,
) -> CpsTerm:
    """InfoNCE of uncertain voxels (paper, section 3.3; docs/concepts/method.md, CPS).

    Parameters
    ----------
    features_BKDHW : the student's full-resolution features, labelled and unlabelled samples together
    probability_BCDHW : the student's probabilities, detached here
    label_BDHW : class of each *valid* voxel, IGNORE elsewhere (see `valid_labels`)
    head : gives the representations, width F, of chosen voxels
    dim : owner of the prototypes
    settings : `config.Cps`
    generator : on the tensors' device; draws voxels and ξ
    """
    label_M = label_BDHW.flatten()
    members_CM = label_M == torch.arange(dim.classes, device=label_M.device).unsqueeze(1)
    unsure_CM = members_CM & (probability_BCDHW.detach().transpose(0, 1).flatten(1) < settings.certain)
    present_C = members_CM.any(1)

    anchors = draw_members(unsure_CM, settings.anchors, generator)
    anchor_CAF = _unit(_represent(head, features_BKDHW, anchors))
    with torch.no_grad():
        pool = draw_members(members_CM, settings.negatives, generator)
        pool_CPF = _represent(head, features_BKDHW, pool)
        mean_CF = class_means(pool_CPF, pool.real_Ck)
        xi = _draw_xi(settings, generator)
        positive_CF = _unit(unassertive_positive(mean_CF, dim.class_means_CF(), xi))
        shape = (anchors.index_Ck.shape[1], settings.negatives)
        negatives = draw_negatives(mean_CF, present_C, pool, shape, settings.temperature, generator)

    # In float32 as every loss is: autocast would round the similarities to 8 bits.
    with torch.autocast(label_M.device.type, enabled=False):
        to_positive_CA = torch.einsum("caf,cf->ca", anchor_CAF, positive_CF)
        to_pool_CAP = torch.einsum("caf,pf->cap", anchor_CAF, _unit(pool_CPF).flatten(0, 1))
    to_negative_CAN = to_pool_CAP.gather(2, negatives)
    loss_CA = info_nce(to_positive_CA, to_negative_CAN, settings.temperature, settings.mean_negatives)
    # A class contrasts only where another class is present to give negatives.
    use_CA = anchors.real_Ck & (present_C.sum() > 1)
    per_class_C = (loss_CA * use_CA).sum(1) / use_CA.sum(1).clamp(min=1)
    loss = per_class_C.sum() / use_CA.any(1).sum().clamp(min=1)
    return CpsTerm(loss, Sample(anchors.index_Ck, use_CA))


def valid_labels(
    target_BDHW: Tensor, pseudo_BDHW: Tensor, confidence_BDHW: Tensor, settings: config.Cps
) -> Tensor:
    """Classes of valid voxels of the joint batch: labelled ones, then pseudo-labelled ones that are sure."""
    sure = torch.where(confidence_BDHW >= settings.valid_confidence, pseudo_BDHW, IGNORE)
    return torch.cat([target_BDHW.long(), sure.long()])


def unassertive_positive(mean_CF: Tensor, prototype_CF: Tensor, xi: Tensor) -> Tensor:
    """v⁺ = (r_m + ξ mean_R(Pᶜ)) / (1 + ξ), (C, F)."""
    return (mean_CF + xi * prototype_CF) / (1 + xi)


def info_nce(
    to_positive: Tensor, to_negatives: Tensor, temperature: float, mean_negatives: bool = False
) -> Tensor:
    """-log(e^{s⁺/τ} / (e^{s⁺/τ} + Σ e^{s⁻/τ})) of cosine similarities (…) and (…, N); Σ / N with `mean_negatives`."""
    logits = torch.cat([to_positive.unsqueeze(-1), to_negatives], -1) / temperature
    if mean_negatives:
        logits[..., 1:] -= math.log(to_negatives.shape[-1])
    return torch.logsumexp(logits, -1) - logits[..., 0]


def class_means(representation_CPF: Tensor, real_CP: Tensor) -> Tensor:
    """r_m, the mean of each class's drawn representations, (C, F); 0 for a class without any."""
    weights_CP1 = real_CP.unsqueeze(-1).to(representation_CPF.dtype)
    return (representation_CPF * weights_CP1).sum(1) / weights_CP1.sum(1).clamp(min=1)


def draw_members(members_CM: Tensor, count: int, generator: torch.Generator) -> Sample:
    """Up to `count` members of each row, uniformly and without replacement."""
    keys = torch.rand(members_CM.shape, generator=generator, device=members_CM.device)
    keys = keys.masked_fill(~members_CM, -1.0)
    best, index = keys.topk(min(count, keys.shape[1]), dim=1)
    return Sample(index, best >= 0)


def draw_negatives(
    mean_CF: Tensor,
    present_C: Tensor,
    pool: Sample,
    shape: tuple[int, int],
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Indices into the flattened pool (C·P) of each anchor's negatives, (C, anchors, negatives).

    The class of a negative is drawn by softmax of the cosine similarity of class means, its own class and
    absent ones excluded; the voxel uniformly from that class's pool. `shape` = (anchors, negatives).
    """
    classes, size = pool.index_Ck.shape
    similarity_CC = F.cosine_similarity(mean_CF.unsqueeze(0), mean_CF.unsqueeze(1), dim=-1)
    other_CC = present_C.unsqueeze(0) & ~torch.eye(classes, dtype=torch.bool, device=mean_CF.device)
    # Relative to the largest of the others: a low temperature must not overflow, as infinite weights cannot be drawn from.
    largest_C1 = similarity_CC.masked_fill(~other_CC, -2.0).amax(1, keepdim=True)
    weights_CC = ((similarity_CC - largest_C1) / temperature).clamp(max=0).exp() * other_CC
    # Without any other class every weight is 0, which cannot be drawn from; the term is masked out then.
    weights_CC = torch.where(weights_CC.sum(1, keepdim=True) > 0, weights_CC, torch.ones_like(weights_CC))
    drawn_CX = torch.multinomial(weights_CC, shape[0] * shape[1], replacement=True, generator=generator)
    available_C = pool.real_Ck.sum(1).clamp(min=1)
    u_CX = torch.rand(drawn_CX.shape, generator=generator, device=mean_CF.device)
    voxel_CX = (u_CX * available_C[drawn_CX]).long().clamp(max=size - 1)
    return (drawn_CX * size + voxel_CX).view(classes, *shape)


def _represent(head: RepresentationHead, features_BKDHW: Tensor, sample: Sample) -> Tensor:
    """Representations of a sample, (C, k, F), float32."""
    representations: Tensor = head(features_BKDHW, sample.index_Ck.flatten())
    return representations.float().view(*sample.index_Ck.shape, -1)


def _draw_xi(settings: config.Cps, generator: torch.Generator) -> Tensor:
    if settings.xi is not None:
        return torch.full((), settings.xi, device=generator.device)
    return torch.rand((), generator=generator, device=generator.device)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)
