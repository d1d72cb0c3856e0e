"""Where the tensors live, and in which precision the network runs."""

from __future__ import annotations

import torch

from napari_crln import config
from napari_crln.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device that a configuration names; `auto` takes CUDA, then Apple's, then the CPU.

    Raises
    ------
    ConfigError
        If the device is unknown or absent.
    """
    if name == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {name!r}: {reason}", "the device must be present", "Use auto or cpu", "engine.device"
        ) from error
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context of the network's forward pass: bf16 where the configuration or the device asks for it."""
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def cautions(device: torch.device, precision: str) -> list[str]:
    """What a person should know of the device and the precision before training.

    torch 2.13 (oneDNN) gives bf16 weight gradients of up to 1e31 to 3x3x3 convolutions over 2x3x2 voxels on a CPU, a size
    that V-Net's bottleneck has with a patch of 32x48x32; 4x4x4 and larger ones are right (docs/experiments.md).
    """
    if device.type == "cpu" and precision == "bf16":
        return [
            "bf16 on a CPU: torch's gradients can be wrong where a patch is small in the network's coarsest level; "
            "if the run ends with an infinite gradient, set engine.precision to fp32"
        ]
    return []


def synchronise(device: torch.device) -> None:
    """Wait for the work that the device has still to do; on a CPU there is none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def use_threads(settings: config.Engine) -> None:
    """Set torch's CPU threads where the configuration names a number."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
