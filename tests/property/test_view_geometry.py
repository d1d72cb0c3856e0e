"""Views move image, labels and confidence together, whatever is drawn: seen on volumes that tell where they are."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from napari_crln import config
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

turns = st.builds(
    Turn,
    quarters=st.integers(0, 3),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)


@st.composite
def strong_draws(draw: st.DrawFn, side: int = 12) -> StrongDraw:
    h0, w0 = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
    box = (h0, draw(st.integers(h0 + 1, side)), w0, draw(st.integers(w0 + 1, side)))
    return StrongDraw(
        scale=draw(st.floats(0.5, 1.5)),
        box=draw(st.sampled_from([None, box])),
        brightness=1.0,
        noise_seed=None,
        turn=draw(turns),
    )


def coordinates(batch: int, side: int = 12, depth: int = 5) -> tuple[Tensor, Tensor]:
    """Images (B, 1, D, H, W) whose voxels differ, as 1, 2, …, and labels that say the same number."""
    label = 1 + torch.arange(batch * depth * side * side).view(batch, depth, side, side)
    return label.unsqueeze(1).float(), label


@given(st.lists(turns, min_size=2, max_size=2))
def test_weak_geometry_moves_labels_with_the_image(drawn: list[Turn]) -> None:
    image, label = coordinates(2)
    x, y = apply_weak([WeakDraw(turn, 1.0) for turn in drawn], image, label, PLAIN)
    assert torch.equal(x.squeeze(1), y.float())
    assert sorted(y.flatten().tolist()) == sorted(label.flatten().tolist()), "a voxel was lost"


@given(st.lists(strong_draws(), min_size=2, max_size=2))
def test_strong_geometry_moves_labels_and_confidence_with_the_image(draws: list[StrongDraw]) -> None:
    """Smooth images, so that interpolation between voxels stays near the nearest one's value."""
    _, label = coordinates(2)
    h, w = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    depth = torch.arange(5.0).view(-1, 1, 1)
    image = torch.stack([1000 * b + 100 * depth + 1 + h + 3 * w for b in range(2)]).unsqueeze(1)
    x, y, c = apply_strong(draws, image, label, image.squeeze(1) / 4096, PLAIN)
    real = y != IGNORE
    # The confidence holds the intensity that the label's own voxel had.
    assert torch.equal((image.flatten()[(y[real] - 1)] / 4096), c[real])
    # Half a voxel away at most, in H and in W: 0.5·1 + 0.5·3, and less beyond the border.
    assert ((x.squeeze(1) - 4096 * c).abs()[real] <= 2.01).all()
    assert (x.squeeze(1)[~real] == 0).all()
    assert (c[~real] == 0).all()


@given(strong_draws(), strong_draws())
def test_shrinking_invents_exactly_what_lies_beyond_the_plane(one: StrongDraw, two: StrongDraw) -> None:
    image, label = coordinates(2)
    draws = [StrongDraw(d.scale, None, 1.0, None, d.turn) for d in (one, two)]
    _, y, _ = apply_strong(draws, image, label, label.float(), PLAIN)
    for drawn, one_y in zip(draws, y, strict=True):
        side = min(12, max(1, round(drawn.scale * 12)))
        assert (one_y != IGNORE).sum() == 5 * side * side


@given(st.integers(0, 2**32), st.integers(1, 3), st.tuples(st.integers(4, 20), st.integers(4, 20)))
def test_what_is_drawn_is_allowed_and_replays(seed: int, batch: int, plane: tuple[int, int]) -> None:
    settings = config.Views(flip=("W",), strong_scale=(0.7, 0.9))
    rng = (np.random.default_rng(seed), np.random.default_rng(seed))
    drawn, again = (
        (draw_weak(r, batch, plane, settings), draw_strong(r, batch, plane, settings)) for r in rng
    )
    assert drawn == again
    for draw in drawn[1]:
        assert 0.7 <= draw.scale <= 0.9
        assert (draw.box is None) == (batch == 1)
        if draw.box is not None:
            h0, h1, w0, w1 = draw.box
            assert 0 <= h0 < h1 <= plane[0]
            assert 0 <= w0 < w1 <= plane[1]
    for turn in [d.turn for group in drawn for d in group]:
        assert turn.flips[:2] == (False, False)
        assert plane[0] == plane[1] or turn.quarters in {0, 2}


@given(st.integers(0, 2**32))
def test_a_draw_applied_twice_gives_the_same_view(seed: int) -> None:
    image, label = coordinates(2)
    draws = draw_strong(np.random.default_rng(seed), 2, (12, 12), config.Views())
    views = [apply_strong(draws, image / 2000, label, label.float(), config.Views()) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*views, strict=True))
