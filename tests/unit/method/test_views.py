from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_crln import config
from napari_crln.method.views import (
    StrongDraw,
    Turn,
    WeakDraw,
    apply_strong,
    apply_weak,
    draw_strong,
    draw_weak,
    rescale_patches,
)

PLAIN = config.Views(minmax=False)
STILL = StrongDraw(scale=1.0, box=None, brightness=1.0, noise_seed=None, turn=Turn())


def test_a_quarter_turn_is_in_plane_and_flips_name_their_axes() -> None:
    label = torch.arange(2 * 3 * 3).view(1, 2, 3, 3)
    image = label.unsqueeze(1).float()

    def view(turn: Turn) -> np.ndarray:
        return apply_weak([WeakDraw(turn, 1.0)], image, label, PLAIN)[1][0].numpy()

    array = label[0].numpy()
    np.testing.assert_array_equal(view(Turn(quarters=1)), np.rot90(array, 1, (1, 2)))
    for axis in range(3):
        flips = tuple(i == axis for i in range(3))
        np.testing.assert_array_equal(view(Turn(flips=(flips[0], flips[1], flips[2]))), np.flip(array, axis))


def test_weak_view_rescales_each_patch_to_0_1_before_brightness() -> None:
    image = torch.tensor([3.0, 5.0, 7.0, 11.0]).view(1, 1, 1, 2, 2).repeat(2, 1, 1, 1, 1)
    image[1] *= 100
    label = torch.zeros(2, 1, 2, 2)
    x, _ = apply_weak([WeakDraw(Turn(), 1.0), WeakDraw(Turn(), 1.2)], image, label, config.Views())
    torch.testing.assert_close(x[0].flatten(), torch.tensor([0, 0.25, 0.5, 1]))
    torch.testing.assert_close(x[1].flatten(), 1.2 * torch.tensor([0, 0.25, 0.5, 1]))


def test_a_constant_patch_rescales_to_0() -> None:
    assert (rescale_patches(torch.full((1, 1, 2, 2, 2), 7.0)) == 0).all()


def test_cutmix_takes_image_label_and_confidence_from_the_next_sample() -> None:
    image = torch.stack([torch.full((1, 2, 4, 4), float(b)) for b in range(3)])
    label = torch.stack([torch.full((2, 4, 4), b) for b in range(3)])
    boxed = StrongDraw(1.0, (1, 3, 0, 2), 1.0, None, Turn())
    x, y, c = apply_strong([boxed, STILL, boxed], image, label, label / 4, PLAIN)
    assert (x.squeeze(1) == y).all()
    assert (c == y / 4).all()
    assert (y[0, :, 1:3, 0:2] == 1).all()
    assert (y[0] == 1).sum() == 2 * 4
    assert (y[1] == 1).all()
    assert (y[2, :, 1:3, 0:2] == 0).all(), "the last sample's next is the first"


def test_a_box_covers_the_share_that_beta_says_on_average() -> None:
    rng = np.random.default_rng(0)
    draws = [d for _ in range(800) for d in draw_strong(rng, 2, (100, 50), config.Views())]
    share = [(h1 - h0) * (w1 - w0) / 5000 for d in draws if d.box for h0, h1, w0, w1 in [d.box]]
    assert np.mean(share) == pytest.approx(0.5, abs=0.01)
    assert np.var(share) == pytest.approx(1 / 36, rel=0.15)  # of β(4, 4)


def test_noise_is_clipped_at_two_sigma_and_spares_labels() -> None:
    image, label = torch.zeros(1, 1, 8, 32, 32), torch.ones(1, 8, 32, 32, dtype=torch.long)
    noisy = StrongDraw(1.0, None, 1.0, 7, Turn())
    settings = config.Views(noise_sigma=0.1)
    x, y, _ = apply_strong([noisy], image, label, label.float(), settings)
    assert x.abs().max() == pytest.approx(0.2)
    assert 0.08 < x.std() < 0.1
    assert torch.equal(y, label)


def test_each_augmentation_is_as_frequent_as_configured() -> None:
    settings = config.Views(cutmix=0.25, strong_brightness_p=0.8, noise_p=0.5, strong_flip_p=0.5)
    draws = draw_strong(np.random.default_rng(0), 4000, (8, 8), settings)
    share = {
        "cutmix": np.mean([d.box is not None for d in draws]),
        "brightness": np.mean([d.brightness != 1.0 for d in draws]),
        "noise": np.mean([d.noise_seed is not None for d in draws]),
        "still": np.mean([d.turn == Turn() for d in draws]),
    }
    expected = {"cutmix": 0.25, "brightness": 0.8, "noise": 0.5, "still": 0.5 + 0.5 / 16}
    assert share == pytest.approx(expected, abs=0.03)


def test_strong_brightness_multiplies_the_image_alone_and_before_the_noise() -> None:
    image, label = torch.rand(2, 1, 2, 4, 4), torch.ones(2, 2, 4, 4, dtype=torch.long)
    bright = [StrongDraw(1.0, None, factor, None, Turn()) for factor in (1.2, 0.8)]
    x, y, c = apply_strong(bright, image, label, label / 2, PLAIN)
    torch.testing.assert_close(x, image * torch.tensor([1.2, 0.8]).view(2, 1, 1, 1, 1))
    assert torch.equal(y, label)
    assert torch.equal(c, label / 2)
    settings = config.Views(minmax=False, noise_sigma=0.1)
    plain, brighter = (
        apply_strong([StrongDraw(1.0, None, b, 7, Turn())], image[:1], label[:1], label[:1] / 2, settings)[0]
        for b in (1.0, 1.2)
    )
    torch.testing.assert_close(brighter - plain, 0.2 * image[:1])


@pytest.mark.parametrize("limits", [(0.75, 1.25), (0.5, 0.6)])
def test_strong_brightness_and_scale_spread_over_their_own_ranges(limits: tuple[float, float]) -> None:
    settings = config.Views(strong_brightness=limits, strong_brightness_p=1.0, strong_scale=(1.5, 2.0))
    draws = draw_strong(np.random.default_rng(0), 2000, (8, 8), settings)
    for values, (low, high) in (
        ([d.brightness for d in draws], limits),
        ([d.scale for d in draws], (1.5, 2.0)),
    ):
        margin = 0.01 * (high - low)
        assert low <= min(values) < low + margin
        assert high - margin < max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=3 * margin)


def test_weak_draws_spread_over_all_quarters_and_the_brightness_range() -> None:
    draws = draw_weak(np.random.default_rng(0), 2000, (8, 8), config.Views())
    counts = np.bincount([d.turn.quarters for d in draws])
    assert (abs(counts - 500) < 80).all()
    brightness = [d.brightness for d in draws]
    assert 0.75 <= min(brightness) < 0.76
    assert 1.24 < max(brightness) <= 1.25
    assert not any(d.turn.flips[0] for d in draws)


def test_switched_off_geometry_is_never_drawn() -> None:
    still = config.Views(rot90=False, flip=())
    rng = np.random.default_rng(0)
    assert all(d.turn == Turn() for d in draw_weak(rng, 50, (8, 8), still))
    assert all(d.turn == Turn() for d in draw_strong(rng, 50, (8, 8), still))
