from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from napari_crln import config
from napari_crln.errors import ConfigError
from napari_crln.nn.build import build_network
from napari_crln.nn.network import NetworkOutput, SegmentationNetwork, check_patch
from napari_crln.nn.unet3d import UNet3D
from napari_crln.nn.vnet import VNet

Builder = Callable[..., nn.Module]
NETWORKS = pytest.mark.parametrize("build", [VNet, UNet3D])


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("build", "millions"), [(VNet, 9.449), (UNet3D, 5.884)])
def test_parameter_count_is_the_literatures(build: Builder, millions: float) -> None:
    assert round(_parameters(build(classes=2, in_channels=1, filters=16)) / 1e6, 3) == millions


@NETWORKS
@pytest.mark.parametrize(("classes", "in_channels", "filters"), [(2, 1, 4), (5, 3, 6)])
def test_shapes_of_logits_and_stages(build: Builder, classes: int, in_channels: int, filters: int) -> None:
    network = build(classes, in_channels, filters).eval()
    output: NetworkOutput = network(torch.randn(2, in_channels, 16, 32, 48))
    assert output.logits_BCDHW.shape == (2, classes, 16, 32, 48)
    assert list(output.stages) == [1, 2, 3, 4]
    for stage, h in output.stages.items():
        cut = 2 ** (4 - stage)
        assert h.shape == (2, network.stage_channels[stage], 16 // cut, 32 // cut, 48 // cut)
        assert network.stage_channels[stage] == filters * cut


@NETWORKS
def test_stage_4_is_what_enters_the_output_convolution(build: Builder) -> None:
    network = build(3, filters=4).eval()
    output = network(torch.randn(1, 1, 16, 16, 32))
    torch.testing.assert_close(network.output(output.stages[4]), output.logits_BCDHW)


def _dropouts(network: nn.Module) -> list[tuple[float, Tensor]]:
    seen: list[tuple[float, Tensor]] = []
    for module in network.modules():
        if isinstance(module, nn.Dropout | nn.Dropout3d):
            module.register_forward_hook(lambda m, args, out: seen.append((m.p, args[0])))
    return seen


@pytest.mark.parametrize(("build", "p"), [(VNet, 0.5), (UNet3D, 0.3)])
def test_dropout_acts_at_the_bottleneck_and_before_the_output(build: Builder, p: float) -> None:
    network = build(2, filters=4)
    seen = _dropouts(network)
    network(torch.randn(2, 1, 16, 16, 32))
    assert [(rate, tuple(h.shape)) for rate, h in seen] == [(p, (2, 64, 1, 1, 2)), (p, (2, 4, 16, 16, 32))]


@NETWORKS
def test_dropout_is_off_where_the_configuration_says_so(build: Builder) -> None:
    x = torch.randn(2, 1, 16, 16, 32)
    with_dropout, without = build(2, filters=4, dropout=True), build(2, filters=4, dropout=False)
    without.load_state_dict(with_dropout.state_dict())
    assert not torch.equal(with_dropout(x)[0], with_dropout(x)[0])
    assert torch.equal(without(x)[0], without(x)[0])


@NETWORKS
def test_every_parameter_that_can_learn_gets_a_gradient(build: Builder) -> None:
    network = build(2, filters=4, dropout=False)
    output = network(torch.randn(2, 1, 32, 16, 16))
    nn.functional.cross_entropy(output.logits_BCDHW, torch.randint(0, 2, (2, 32, 16, 16))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if name.endswith("weight"):
            assert parameter.grad.abs().sum() > 0, name


@NETWORKS
def test_skips_carry_fine_detail(build: Builder) -> None:
    """With the bottleneck silenced, the logits still follow the input voxel by voxel."""
    network = build(2, filters=4, dropout=False).eval()
    network.encoder[-1].register_forward_hook(lambda m, args, out: torch.zeros_like(out))
    x = torch.randn(1, 1, 16, 16, 32)
    moved = x.clone()
    moved[0, 0, 8, 8, 16] += 5.0
    assert (network(x)[0] - network(moved)[0]).abs().amax() > 1e-4


@NETWORKS
def test_weights_depend_on_the_seed_alone(build: Builder) -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(build(2, filters=4).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@NETWORKS
def test_kaiming_initialisation(build: Builder) -> None:
    torch.manual_seed(0)
    convolution = next(m for m in build(2).modules() if isinstance(m, nn.Conv3d) and m.in_channels == 128)
    expected = (2 / (128 * convolution.weight[0, 0].numel())) ** 0.5
    assert float(convolution.weight.detach().std()) == pytest.approx(expected, rel=0.02)
    assert convolution.bias is not None
    assert not convolution.bias.any()


@NETWORKS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_channels_last_changes_the_layout_not_the_result(build: Builder, dtype: torch.dtype) -> None:
    network = build(2, filters=8, dropout=False).to(dtype).eval()
    x = torch.randn(2, 1, 32, 16, 32, dtype=dtype)
    expected = network(x).logits_BCDHW
    network = network.to(memory_format=torch.channels_last_3d)
    output = network(x.to(memory_format=torch.channels_last_3d))
    if dtype == torch.float64:  # whose kernels do not keep the layout
        torch.testing.assert_close(output.logits_BCDHW, expected)
    else:
        assert all(h.is_contiguous(memory_format=torch.channels_last_3d) for h in output.stages.values())


def test_unet_normalises_each_channel_of_each_sample() -> None:
    network = UNet3D(2, filters=4, dropout=False)
    for index in (1, 4):
        assert isinstance(network.encoder[0], nn.Sequential)
        x = torch.randn(2, 4, 4, 5, 6)
        torch.testing.assert_close(network.encoder[0][index](x), nn.functional.instance_norm(x))


@pytest.mark.parametrize(("name", "kind"), [("vnet", VNet), ("unet3d", UNet3D)])
def test_build_network_follows_the_configuration(name: str, kind: type[nn.Module]) -> None:
    settings = config.Network.model_validate({"name": name, "base_filters": 4, "dropout": False})
    network = build_network(settings, classes=3, in_channels=2)
    assert type(network) is kind
    assert isinstance(network, SegmentationNetwork)
    assert network(torch.randn(1, 2, 16, 16, 32)).logits_BCDHW.shape[1] == 3
    assert not any(isinstance(m, nn.Dropout | nn.Dropout3d) for m in network.modules())


def test_build_network_refuses_a_single_class() -> None:
    with pytest.raises(ConfigError, match="1 classes"):
        build_network(config.Network(), classes=1)


def test_check_patch_takes_multiples() -> None:
    check_patch((80, 112, 112), (16, 16, 16))
    check_patch((3, 16, 16), (1, 16, 16))


@pytest.mark.parametrize(
    ("patch", "hint"),
    [((88, 112, 112), "D: 80 or 96$"), ((7, 112, 113), "D: 16; W: 112 or 128$"), ((0, 16, 16), "D: 16$")],
)
def test_check_patch_names_the_nearest_valid_sizes(patch: tuple[int, int, int], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        check_patch(patch, (16, 16, 16))
