"""What the network believes of a volume: the maps that previews and the report show.

The teacher in eval mode looks at the volume through the windows of prediction, with the same blending, so that
what is shown is what training and prediction get to see. A slab no larger than the patch is one forward pass. In the
recipe's setting (logits rectified, clues used in prediction) the rectified pseudo-label and the prediction are one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_crln import config
from napari_crln.engine.device import autocast
from napari_crln.engine.predict import Progress, SlicedVolume, Windowing, blend_slabs, most_probable
from napari_crln.method.learner import Learner
from napari_crln.method.rectify import fuse, rectify
from napari_crln.types import LabelDHW
from napari_crln.volume.intensity import Normalisation

_Float = NDArray[np.float32]


@dataclass(frozen=True)
class BeliefMaps:
    """Maps of one volume or slab; those of clues are None where the method has none."""

    #: ȳ, the teacher's own label, (D, H, W).
    pseudo_label: LabelDHW
    #: ȳ_r, after rectification; ȳ itself where the method or the step does not rectify, (D, H, W).
    rectified: LabelDHW
    #: Where the two differ, bool (D, H, W).
    changed: NDArray[np.bool_]
    #: 1 - p of the rectified label's class, 0 … 1 - 1/C, (D, H, W).
    uncertainty: _Float
    #: The final prediction, with clues or without as configured, (D, H, W).
    prediction: LabelDHW
    #: Score of a class's R prototypes, the largest or that of one, at the finest level, before normalisation,
    #: (C, D, H, W).
    similarity: _Float | None = None
    #: M, signed and logit-like, (C, D, H, W).
    clues: _Float | None = None


def belief_maps(
    learner: Learner,
    image: SlicedVolume,
    normalisation: Normalisation,
    settings: config.RunConfig,
    *,
    step: int | None = None,
    progress: Progress | None = None,
) -> BeliefMaps:
    """Maps of a volume, or of a slab of one.

    Parameters
    ----------
    learner : on its device; left as it was, but for its teacher's train/eval mode
    image : (D, H, W), stored intensities
    normalisation : of the volume
    settings : of the run
    step : optimiser steps done; none: past the start of rectification
    progress : called with windows done, windows in all

    Raises
    ------
    OutOfMemory : a batch of windows does not fit the device
    """
    believe = Believer(learner, settings, step)
    slabs = blend_slabs(
        believe,
        image,
        Windowing.of(settings),
        normalise=normalisation.apply,
        device=next(learner.parameters()).device,
        progress=progress,
    )
    parts = [maps_of(slab.probability_CDHW, believe.groups) for slab in slabs]
    joined: dict[str, Any] = {
        f.name: _joined([getattr(p, f.name) for p in parts]) for f in fields(BeliefMaps)
    }
    return BeliefMaps(**joined)


class Believer:
    """Windows (b, 1, d, h, w) to all values that the maps are made of, (b, groups · C, d, h, w).

    Parameters
    ----------
    prototype : whose score the similarity is, from 1; 0: the largest of the class's
    """

    def __init__(
        self, learner: Learner, settings: config.RunConfig, step: int | None, prototype: int = 0
    ) -> None:
        self._prototype = prototype
        self._learner, self._precision = learner, settings.engine.precision
        self._method, self._predict_clues = settings.method, settings.predicting.clues
        begun = step is None or step >= self._method.rectification.after
        self._rectifies = self._method.uses_rectification and begun
        self.groups = 5 if self._method.uses_clues else 3

    def __call__(self, windows_b1dhw: Tensor) -> Tensor:
        learner = self._learner
        learner.teacher.eval()
        with autocast(windows_b1dhw.device, self._precision):
            output = learner.teacher(windows_b1dhw)
            clues = learner.teacher.clues(output) if self._method.uses_clues else None
        z = output.logits_BCDHW.float()
        if clues is None:
            return torch.cat([z.softmax(1)] * 3, dim=1)
        m, mu = clues.map_BCDHW.float(), learner.trust.mu
        z_r = rectify(z, m, mu, self._method.rectification) if self._rectifies else z
        final = fuse(z, m, mu) if self._predict_clues else z
        scores = clues.proximity.float()
        similarity = _upsampled(scores[:, :, self._prototype - 1] if self._prototype else scores.amax(2), z)
        return torch.cat([z.softmax(1), z_r.softmax(1), final.softmax(1), m, similarity], dim=1)


def _upsampled(maps_BCdhw: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps_BCdhw, size=like.shape[2:], mode="trilinear", align_corners=False)


def maps_of(values: _Float, groups: int) -> BeliefMaps:
    """Maps of one slab from a `Believer`'s blended values, (groups · C, d, H, W)."""
    teacher, rectified, final, *rest = np.split(values, groups)
    before, after = most_probable(teacher), most_probable(rectified)
    clues, similarity = rest or (None, None)
    return BeliefMaps(
        pseudo_label=before,
        rectified=after,
        changed=before != after,
        uncertainty=1 - rectified.max(0),
        prediction=most_probable(final),
        similarity=similarity,
        clues=clues,
    )


def _joined(parts: list[NDArray[Any] | None]) -> NDArray[Any] | None:
    """Slabs of one map along D, the third axis from the end."""
    present = [part for part in parts if part is not None]
    return np.concatenate(present, axis=-3) if present else None
