"""Where in its volumes the last steps had their anchors: from voxels of a batch's views back to voxels.

A step hands over which voxels of its batch were anchors, as tensors on the device, and nothing is read there. All else
is a function of seed, step and labels, so patches and views are drawn again only when a preview asks. Few steps see a given
volume: the newest one that did is told, of the last `STEPS`.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from napari_crln import config
from napari_crln.engine.cohort import Cohort, PatchDraw
from napari_crln.engine.data import Batches
from napari_crln.method.cps import Sample
from napari_crln.method.learner import Randomness
from napari_crln.method.trace import before_strong, before_weak
from napari_crln.method.views import strong_draws, weak_draws
from napari_crln.previews import MAX_ANCHORS, AnchorRecord
from napari_crln.types import ShapeDHW

#: Steps that are remembered: with two patches a step, nine in ten of 80 volumes are among them.
STEPS = 100

_Points = NDArray[np.int64]


class AnchorTrace:
    """Anchors of the last steps.

    Parameters
    ----------
    batches : that the steps were taken with
    settings : of the run
    """

    def __init__(self, batches: Batches, settings: config.RunConfig) -> None:
        self._batches, self._settings = batches, settings
        self._steps: deque[tuple[int, Sample]] = deque(maxlen=STEPS)

    def remember(self, step: int, anchors: Sample | None) -> None:
        """Keep the anchors of a step, counted from 0; None: the method has none."""
        if anchors is not None:
            self._steps.append((step, anchors))

    def forget(self) -> None:
        """Labels have changed: past steps would be drawn otherwise now."""
        self._steps.clear()

    def within(self, volume: str, shape: ShapeDHW) -> AnchorRecord | None:
        """Anchors in a volume (D, H, W) of the newest step that took a patch of it; None if none did."""
        for step, anchors in reversed(self._steps):
            random = Randomness(self._settings.seed, step)
            draws = self._batches.draws(random)
            if volume in self._names(draws):
                points_N4 = self._in_volume(anchors, draws, random, volume, shape)
                return AnchorRecord(step=step + 1, points=tuple(map(tuple, _few(points_N4).tolist())))
        return None

    def _names(self, draws: tuple[list[PatchDraw], list[PatchDraw]]) -> list[str]:
        return [cohort.names[i] for cohort, own in self._cohorts(draws) for i, _ in own]

    def _cohorts(
        self, draws: tuple[list[PatchDraw], list[PatchDraw]]
    ) -> list[tuple[Cohort, list[PatchDraw]]]:
        return list(zip((self._batches.labelled, self._batches.unlabelled), draws, strict=True))

    def _in_volume(
        self,
        anchors: Sample,
        draws: tuple[list[PatchDraw], list[PatchDraw]],
        random: Randomness,
        volume: str,
        shape: ShapeDHW,
    ) -> _Points:
        """Class and voxel of each anchor that lies in the volume, (N, 4)."""
        classes, points_N4 = self._in_batch(anchors)
        points_N4 = self._before_views(points_N4, len(draws[0]), len(draws[1]), random)
        corners = [cohort.corner_in_volume(draw) for cohort, own in self._cohorts(draws) for draw in own]
        voxels_N3 = points_N4[:, 1:] + np.array(corners)[points_N4[:, 0]]
        own = np.array(self._names(draws))[points_N4[:, 0]] == volume
        inside = ((voxels_N3 >= 0) & (voxels_N3 < np.array(shape))).all(1)
        kept: _Points = np.column_stack([classes, voxels_N3])[own & inside]
        return kept

    def _in_batch(self, anchors: Sample) -> tuple[NDArray[np.int64], _Points]:
        """Class of each anchor, and (sample, d, h, w) in the batch that the student saw. Waits for the device."""
        real_Ck = anchors.real_Ck.cpu().numpy()
        index_N = anchors.index_Ck.cpu().numpy()[real_Ck]
        sizes = self._settings.batches
        batch = (sizes.labelled + sizes.unlabelled, *sizes.patch)
        return np.nonzero(real_Ck)[0], np.column_stack(np.unravel_index(index_N, batch))

    def _before_views(
        self, points_N4: _Points, labelled: int, unlabelled: int, random: Randomness
    ) -> _Points:
        """Voxels of the batch's patches: strong views, then weak ones, undone."""
        views, patch = self._settings.method.views, self._settings.batches.patch
        of_l, of_u = weak_draws(random, labelled, unlabelled, patch[1:], views)
        found = points_N4.copy()
        seen_u = points_N4[:, 0] >= labelled
        if views.strong:
            first = np.array([labelled, 0, 0, 0])
            strong = strong_draws(random, unlabelled, patch[1:], views)
            found[seen_u] = before_strong(found[seen_u] - first, strong, patch) + first
        return before_weak(found, [*of_l, *of_u], patch)


def _few(points_N4: _Points) -> _Points:
    """At most `MAX_ANCHORS`, evenly spread over those that there are; these are in random order within a class."""
    if len(points_N4) <= MAX_ANCHORS:
        return points_N4
    return points_N4[np.linspace(0, len(points_N4) - 1, MAX_ANCHORS).astype(np.int64)]
