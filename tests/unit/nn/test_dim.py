from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_crln import config
from napari_crln.nn.dim import (
    DynamicInteraction,
    Interaction,
    MapHead,
    normalise_over_space,
    to_proximity_maps,
)

CLASSES, COUNT = 3, 2
SPACE = (4, 6, 8)  # all different, so that swapped axes show


def dim(stages: tuple[int, ...] = (2, 3), **options: object) -> DynamicInteraction:
    torch.manual_seed(0)
    settings = config.Dim(prototypes=COUNT, width=4, stages=stages, **options)
    return DynamicInteraction(CLASSES, {2: 6, 3: 5}, {2: 4, 3: 2}, settings)


def stages(batch: int = 2, scale: int = 1) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(batch, 6, 4 * scale, 4 * scale, 4 * scale, generator=generator)
    return {2: coarse, 3: torch.randn(batch, 5, *(8 * scale,) * 3, generator=generator)}


def region(c: int, r: int) -> tuple[int, int, int]:
    """Where the prototype (c, r) alone is to light up."""
    return c, 2 * r + c, 3 * r + c + 1


@pytest.fixture
def distinguishable() -> tuple[DynamicInteraction, Tensor]:
    """A module and features (1, C·R, d, h, w) in which each prototype matches the voxel of its own region."""
    width = CLASSES * COUNT
    settings = config.Dim(prototypes=COUNT, width=width, stages=(3,))
    module = DynamicInteraction(CLASSES, {3: width}, {3: 2}, settings)
    level = module.interactions["3"]
    for linear in (level.tokens, level.query, level.key):
        nn.init.eye_(linear.weight)
    nn.init.zeros_(level.tokens.bias)
    with torch.no_grad():
        module.prototypes.copy_(torch.eye(width).view(CLASSES, COUNT, width))
    features = torch.zeros(1, width, *SPACE)
    for c in range(CLASSES):
        for r in range(COUNT):
            features[0, c * COUNT + r, *region(c, r)] = 1.0
    return module, features


def test_proximity_maps_keep_class_prototype_and_space_apart(
    distinguishable: tuple[DynamicInteraction, Tensor],
) -> None:
    module, features = distinguishable
    proximity = module({3: features}, (8, 12, 16)).proximity
    assert proximity.shape == (1, CLASSES, COUNT, *SPACE)
    for c in range(CLASSES):
        for r in range(COUNT):
            here = proximity[0, c, r]
            assert here.argmax() == here[region(c, r)].new_tensor(
                (region(c, r)[0] * SPACE[1] + region(c, r)[1]) * SPACE[2] + region(c, r)[2]
            )
            assert (here > 0.5 * here.max()).sum() == 1, "another prototype's region lights up too"


def test_map_of_a_class_lights_up_where_its_prototypes_do(
    distinguishable: tuple[DynamicInteraction, Tensor],
) -> None:
    module, features = distinguishable
    head = module.heads["3"]
    nn.init.zeros_(head.depthwise.weight)
    head.depthwise.weight.data[:, :, 1, 1, 1] = 1.0
    nn.init.ones_(head.pointwise.weight)
    nn.init.zeros_(head.depthwise.bias)
    clues = module({3: features}, SPACE).map_BCDHW
    for c in range(CLASSES):
        for r in range(COUNT):
            assert clues[0, :, *region(c, r)].argmax() == c


@pytest.mark.parametrize("transposed", [False, True])
def test_the_convolution_makes_a_map_of_a_class_or_transposed_of_a_prototype(transposed: bool) -> None:
    """What is kept apart by the axes that are in force, and what is one: changes of one map, and where they arrive."""
    torch.manual_seed(0)
    axes = "prototype" if transposed else "class"
    head = MapHead(CLASSES, config.Dim(prototypes=COUNT, map_axes=axes), factor=2).double()
    proximity = torch.randn(1, CLASSES, COUNT, *SPACE).double()
    changed = proximity.clone()
    changed[:, 2, 1] = torch.randn(*SPACE).double()
    seen: list[Tensor] = []
    head.cross_class.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for maps in (proximity, changed):
        assert head(maps, (8, 12, 16)).shape == (1, CLASSES, 8, 12, 16)
    before, after = seen
    assert before.shape == (1, COUNT if transposed else CLASSES, *SPACE)
    moved = [k for k in range(before.shape[1]) if not torch.equal(before[0, k], after[0, k])]
    assert moved == [1 if transposed else 2]


def test_queries_are_class_major() -> None:
    scores = torch.arange(2 * 6 * 24.0).view(2, 6, 24)
    maps = to_proximity_maps(scores, 3, torch.Size((2, 3, 4)))
    assert maps[1, 2, 1, 1, 2, 3] == scores[1, 2 * 2 + 1, (1 * 3 + 2) * 4 + 3]


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("width_in", [6, 4])
def test_folded_projections_equal_textbook_cross_attention(width_in: int, residual: bool) -> None:
    torch.manual_seed(0)
    level = Interaction(6, width_in, residual, updates=True).double()
    features, prototypes = torch.randn(2, 6, *SPACE).double(), torch.randn(2, 5, width_in).double()
    scores, updated = level(features, prototypes)

    tokens = level.token_norm(F.conv3d(features, level.tokens.weight[..., None, None, None], level.tokens.bias)
                              .flatten(2).transpose(1, 2))  # fmt: skip
    narrowed = level.narrow(prototypes)
    query, key, value = level.query(narrowed), level.key(tokens), level.value(tokens)
    attended = F.scaled_dot_product_attention(query, key, value)
    expected = narrowed + attended if residual else attended
    torch.testing.assert_close(scores, query @ key.transpose(1, 2) / math.sqrt(6))
    torch.testing.assert_close(updated, expected + level.mlp(expected))


@pytest.mark.parametrize("size", [(16, 16, 16), (16, 32, 48)])
@pytest.mark.parametrize("upsampling", ["trilinear", "transposed"])
def test_same_weights_take_any_size(size: tuple[int, int, int], upsampling: str) -> None:
    module = dim(upsampling=upsampling)
    features = {s: torch.randn(1, k, *(n // cut for n in size)) for s, k, cut in ((2, 6, 4), (3, 5, 2))}
    clues = module(features, size)
    assert clues.map_BCDHW.shape == (1, CLASSES, *size)
    assert clues.proximity.shape == (1, CLASSES, COUNT, *(n // 2 for n in size))


def test_clues_do_not_depend_on_how_much_of_the_same_is_seen() -> None:
    """Tiled features: the same statistics and the same aggregation, so the same M inside each tile."""
    module = dim()
    small = stages()
    large = {s: f.repeat(1, 1, 2, 2, 2) for s, f in small.items()}
    alone = module(small, (16, 16, 16)).map_BCDHW
    tiled = module(large, (32, 32, 32)).map_BCDHW
    inner = slice(6, 10)  # no border's padding reaches here
    torch.testing.assert_close(
        tiled[..., inner, inner, 22:26], alone[..., inner, inner, inner], rtol=1e-4, atol=1e-5
    )


def test_each_sample_is_on_its_own() -> None:
    module, both = dim(), stages(batch=2)
    together = module(both, (16, 16, 16)).map_BCDHW
    alone = module({s: f[1:] for s, f in both.items()}, (16, 16, 16)).map_BCDHW
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


def test_each_map_is_normalised_by_its_own_space() -> None:
    maps = torch.randn(2, 3, 4, 5, 6, 7) * torch.rand(2, 3, 4, 1, 1, 1) * 9 + torch.randn(2, 3, 4, 1, 1, 1)
    out = normalise_over_space(maps)
    torch.testing.assert_close(out.mean((-3, -2, -1)), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var((-3, -2, -1), correction=0), torch.ones(2, 3, 4), atol=1e-2, rtol=0)


def test_map_head_is_the_depthwise_separable_convolution_that_it_says() -> None:
    torch.manual_seed(0)
    head = MapHead(CLASSES, config.Dim(prototypes=COUNT, cross_class=False), factor=2).double()
    maps = torch.randn(2, CLASSES, COUNT, *SPACE).double()
    of_class = [head.pointwise(head.depthwise(normalise_over_space(maps)[:, c])) for c in range(CLASSES)]
    torch.testing.assert_close(head(maps, SPACE), torch.cat(of_class, 1))


@pytest.mark.parametrize("cross_class", [True, False])
def test_classes_interact_through_the_cross_class_convolution_alone(cross_class: bool) -> None:
    module = dim(stages=(3,), cross_class=cross_class)
    if cross_class:
        nn.init.ones_(module.heads["3"].cross_class.weight)
    module({3: stages()[3]}, (16, 16, 16)).map_BCDHW[:, 0].square().sum().backward()
    assert module.prototypes.grad is not None
    reached = module.prototypes.grad.abs().amax((1, 2)) > 0
    assert reached.tolist() == [True, cross_class, cross_class]


@pytest.mark.parametrize("levels", ["all", "last"])
def test_every_parameter_of_dim_learns_from_the_loss_of_its_map(levels: str) -> None:
    module = dim(levels_to_map=levels)
    module(stages(), (16, 16, 16)).map_BCDHW.square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []
    assert module.prototypes.grad is not None
    assert (module.prototypes.grad.abs().amax(-1) > 0).all()


def test_prototypes_take_in_the_coarse_stage_before_they_meet_the_fine_one() -> None:
    module, features = dim(levels_to_map="last"), stages()
    features[2].requires_grad_()
    module(features, (16, 16, 16)).map_BCDHW.square().sum().backward()
    assert features[2].grad is not None
    assert features[2].grad.abs().max() > 0


def test_unsigned_clues_are_the_positive_part() -> None:
    module, features = dim(), stages()
    signed = module(features, (16, 16, 16)).map_BCDHW
    assert signed.min() < 0
    torch.testing.assert_close(dim(signed=False)(features, (16, 16, 16)).map_BCDHW, signed.relu())


def test_levels_that_write_into_the_map_are_summed() -> None:
    module, level_maps = dim(levels_to_map="all"), []
    for head in module.heads.values():
        head.register_forward_hook(lambda _m, _x, out: level_maps.append(out))
    clues = module(stages(), (16, 16, 16)).map_BCDHW
    coarse, fine = level_maps
    torch.testing.assert_close(clues, coarse + fine)


def test_the_map_comes_to_full_resolution_by_trilinear_interpolation() -> None:
    torch.manual_seed(0)
    head = MapHead(CLASSES, config.Dim(prototypes=COUNT), factor=2).double()
    maps = torch.randn(2, CLASSES, COUNT, *SPACE).double()
    small, large = head(maps, SPACE), head(maps, (8, 12, 16))
    # Between the centres of voxels 1/4 and 3/4 of the way, along each axis in turn; borders left out.
    for axis in (2, 3, 4):
        ahead = small.narrow(axis, 1, small.shape[axis] - 1)
        behind = small.narrow(axis, 0, small.shape[axis] - 1)
        pair = torch.stack([0.75 * behind + 0.25 * ahead, 0.25 * behind + 0.75 * ahead], axis + 1)
        small = pair.flatten(axis, axis + 1)
    torch.testing.assert_close(large[..., 1:-1, 1:-1, 1:-1], small)


def test_prototypes_start_with_the_spread_that_is_configured() -> None:
    unit, narrow = dim(), dim(prototype_std=0.1)
    torch.testing.assert_close(narrow.prototypes, 0.1 * unit.prototypes)
    many = DynamicInteraction(4, {3: 5}, {3: 2}, config.Dim(stages=(3,), prototype_std=0.1)).prototypes
    assert many.std().item() == pytest.approx(0.1, rel=0.05)
