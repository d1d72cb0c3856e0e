"""One optimiser step: schedule, finiteness before anything moves, clipping."""

from __future__ import annotations

import torch
from torch import Tensor

from napari_crln import config


def learning_rate(step: int, iterations: int, settings: config.Optimiser) -> float:
    """Linear warm-up times polynomial decay, lr (1 - t/T)^p; `step` counts from 0."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    remaining = 1.0 - min(step, iterations - 1) / iterations
    return settings.learning_rate * warm * float(remaining**settings.power)


def descend(optimiser: torch.optim.SGD, loss: Tensor, rate: float, clip_norm: float | None) -> Tensor:
    """Backward and step at the given rate; return the gradient's norm, a scalar on the device.

    Where loss or gradient is NaN or infinite nothing moves: the fused optimiser reads the verdict on the
    device, so nothing waits for it. The caller looks at the norm when it next reads the losses.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    norm = torch.where(torch.isfinite(loss.detach()), norm, torch.nan)
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    if optimiser.defaults["fused"]:
        optimiser.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        optimiser.step()
    elif bool(torch.isfinite(norm)):
        optimiser.step()
    return norm
