"""From a configuration to a network."""

from __future__ import annotations

from napari_crln import config
from napari_crln.errors import ConfigError
from napari_crln.nn.unet3d import UNet3D
from napari_crln.nn.vnet import VNet


def build_network(settings: config.Network, classes: int, in_channels: int = 1) -> VNet | UNet3D:
    """The network that `settings` names; `classes` counts the background.

    Weights depend on torch's seed alone. The result satisfies `SegmentationNetwork`.
    """
    if classes < 2:
        raise ConfigError(
            f"{classes} classes", "a segmentation has at least 2, the background included", "Name a class"
        )
    arguments = (classes, in_channels, settings.base_filters, settings.dropout)
    return VNet(*arguments) if settings.name == "vnet" else UNet3D(*arguments)
