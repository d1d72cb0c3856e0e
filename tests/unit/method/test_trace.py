"""Undoing a view by its draw against making it: a volume of voxel numbers says where each voxel came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_crln import config
from napari_crln.method.trace import before_strong, before_weak
from napari_crln.method.views import (
    StrongDraw,
    Turn,
    WeakDraw,
    apply_strong,
    apply_weak,
    draw_strong,
    draw_weak,
)
from napari_crln.types import IGNORE

PLAIN = config.Views(minmax=False)


def _numbers(batch: int, patch: tuple[int, int, int]) -> torch.Tensor:
    return torch.arange(batch * int(np.prod(patch))).view(batch, *patch)


def _sources(numbers_BDHW: torch.Tensor, shown_BDHW: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Voxels that a view shows, and those of the input that they are."""
    shown = shown_BDHW.numpy()
    seen = np.argwhere(shown != IGNORE)
    return seen, np.column_stack(np.unravel_index(shown[tuple(seen.T)], tuple(numbers_BDHW.shape)))


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("flips", [(False,) * 3, (True, False, True), (True, True, False)])
def test_every_turn_is_undone(quarters: int, flips: tuple[bool, bool, bool]) -> None:
    patch = (3, 4, 5) if quarters % 2 == 0 else (3, 4, 4)
    numbers, draws = _numbers(2, patch), [WeakDraw(Turn(quarters, flips), 1.0), WeakDraw(Turn(), 1.0)]
    _, shown = apply_weak(draws, numbers.unsqueeze(1).float(), numbers, PLAIN)
    seen, sources = _sources(numbers, shown)
    np.testing.assert_array_equal(before_weak(seen, draws, patch), sources)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("patch", [(3, 12, 12), (2, 10, 14)])
def test_drawn_strong_views_are_undone(seed: int, patch: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    settings = config.Views(cutmix=1.0, strong_flip_p=1.0)
    numbers, draws = _numbers(3, patch), draw_strong(rng, 3, patch[1:], settings)
    _, shown, _ = apply_strong(draws, numbers.unsqueeze(1).float(), numbers, numbers.float(), PLAIN)
    seen, sources = _sources(numbers, shown)
    np.testing.assert_array_equal(before_strong(seen, draws, patch), sources)
    assert len({d.scale for d in draws}) == 3
    assert (sources[:, 0] != seen[:, 0]).any(), "the test shows nothing if CutMix took nothing"


def test_weak_draws_of_a_flat_plane_are_undone() -> None:
    patch = (2, 3, 5)
    numbers, draws = _numbers(8, patch), draw_weak(np.random.default_rng(1), 8, patch[1:], config.Views())
    _, shown = apply_weak(draws, numbers.unsqueeze(1).float(), numbers, PLAIN)
    seen, sources = _sources(numbers, shown)
    np.testing.assert_array_equal(before_weak(seen, draws, patch), sources)
    assert any(d.turn.quarters == 2 for d in draws)


def test_what_a_shrunken_plane_invented_comes_back_inside() -> None:
    draw = StrongDraw(0.5, None, 1.0, None, Turn())
    corners = np.array([[0, 0, 0, 0], [0, 1, 7, 7]])
    found = before_strong(corners, [draw], (2, 8, 8))
    np.testing.assert_array_equal(found, [[0, 0, 1, 1], [0, 1, 7, 7]])  # the nearest that was shown
