from __future__ import annotations

from collections.abc import Callable

import torch

from napari_crln.config import RunConfig
from napari_crln.nn.model import RepresentationHead, build_model

Settings = Callable[..., RunConfig]


def test_head_at_voxels_equals_the_dense_head() -> None:
    torch.manual_seed(0)
    head = RepresentationHead(3, 5, hidden=4).double()
    features = torch.randn(2, 3, 4, 5, 6).double()
    everywhere = torch.arange(2 * 4 * 5 * 6)
    dense = head.norm(head.conv(features).movedim(1, -1)).relu()
    torch.testing.assert_close(head(features, everywhere), head.project(dense).flatten(0, 3))


def test_gradient_of_overlapping_neighbourhoods_is_the_dense_one_and_repeatable() -> None:
    """With several threads: a sum by atomics would come in any order."""
    torch.manual_seed(0)
    head = RepresentationHead(8, 16, None)
    features = torch.randn(1, 8, 12, 12, 12).to(memory_format=torch.channels_last_3d).requires_grad_()
    index = torch.arange(12**3).repeat(4)
    weight = torch.randn(len(index), 16)

    def gradient() -> torch.Tensor:
        (result,) = torch.autograd.grad((head(features, index) * weight).sum(), features)
        return result

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first = gradient()
        assert all(torch.equal(gradient(), first) for _ in range(5))
    finally:
        torch.set_num_threads(threads)
    dense = head.project(head.norm(head.conv(features).movedim(1, -1)).relu()).flatten(0, 3)
    (expected,) = torch.autograd.grad((dense.repeat(4, 1) * weight).sum(), features)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-4)


def test_a_model_has_only_what_its_method_uses(settings: Settings) -> None:
    off = {"rectification": {"enabled": False}, "cps": {"enabled": False}}
    parts = {
        "crln": build_model(settings(), 3),
        "without cps": build_model(settings(method={"cps": {"enabled": False}}), 3),
        "without clues": build_model(settings(method={"clues": False, **off}), 3),
        "mean-teacher": build_model(settings("mean-teacher"), 3),
    }
    has = {name: (m.dim is not None, m.head is not None) for name, m in parts.items()}
    assert has == {
        "crln": (True, True),
        "without cps": (True, False),
        "without clues": (False, False),
        "mean-teacher": (False, False),
    }


def test_methods_of_one_seed_start_from_the_same_backbone(settings: Settings) -> None:
    torch.manual_seed(3)
    crln = build_model(settings(), 3).backbone.state_dict()
    torch.manual_seed(3)
    control = build_model(settings("mean-teacher"), 3).backbone.state_dict()
    assert all(torch.equal(crln[name], control[name]) for name in crln)


def test_clues_can_be_asked_for_the_labelled_part_alone(settings: Settings) -> None:
    torch.manual_seed(0)
    model = build_model(settings(), 3).eval()
    output = model(torch.randn(3, 1, 16, 16, 16))
    torch.testing.assert_close(
        model.clues(output, 2).map_BCDHW, model.clues(output).map_BCDHW[:2], rtol=1e-4, atol=1e-5
    )
