"""Sliding-window prediction in bounded memory (METHOD, prediction).

Windows go row by row along D. The softmax of each, weighted by a Gaussian, is added to a buffer one window
high; planes that no later window reaches are divided by their summed weight, handed out, and the buffer moves on.
Whatever the volume's depth, what is held is one slab of C × patch D × H × W float32, as much of the image in its stored
dtype, 16 MiB of planes that come or go, and one batch of windows. Every plane of the image is read once. The summed weight
is no slab but made for the planes that are handed out, and intensities are normalised window by window: both cost
little beside the network, and predicting 1024³ with 2 filters and windows side by side peaks at 2.4 GB (benchmarks/predict.py memory).

Probabilities are averaged, not logits: a mean of logits would let one over-confident window outvote the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_crln.config import RunConfig
from napari_crln.engine.memory import is_out_of_memory
from napari_crln.engine.windows import Grid, importance
from napari_crln.errors import OutOfMemory
from napari_crln.types import LabelDHW, NormalisedDHW, ProbabilityCDHW, ShapeDHW
from napari_crln.volume.patches import Padding

#: (b, 1, d, h, w) float32 windows to (b, C, d, h, w) logits. In eval mode, on the device, precision its own affair.
Network = Callable[[Tensor], Tensor]
#: Intensities as stored to float32, voxel by voxel: it sees windows, never the whole volume.
Normalise = Callable[[NDArray[Any]], NormalisedDHW]
Progress = Callable[[int, int], None]

_AXES: dict[str, int] = {"D": 2, "H": 3, "W": 4}
#: Planes are read and handed out in bands of at most so much, or plane by plane: large volumes have large ones.
_BAND_BYTES = 1 << 24


class Cancelled(Exception):
    """The caller's `cancelled()` became true; what was handed out so far is not the whole volume."""


class SlicedVolume(Protocol):
    """An array (D, H, W) read by slicing: NumPy, Zarr or TensorStore; only slices of it are ever loaded."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: Any, /) -> Any: ...


class Slab(NamedTuple):
    """Finished planes start … stop - 1 along D, with probabilities (C, stop - start, H, W)."""

    start: int
    stop: int
    probability_CDHW: ProbabilityCDHW


@dataclass(frozen=True)
class Windowing:
    """How windows are laid, prepared and averaged.

    Parameters
    ----------
    patch : window in voxels, a multiple of the network's stride
    stride : voxels between windows; None: from `overlap`
    overlap : share of a window that its neighbour covers too
    batch : windows at once
    minmax : rescale every window to 0-1, as training patches were; a constant window becomes 0
    flips : axes of test-time flips; the mean over all 2ⁿ combinations is taken
    """

    patch: ShapeDHW
    stride: ShapeDHW | None = None
    overlap: float = 0.5
    batch: int = 2
    minmax: bool = False
    flips: Sequence[Literal["D", "H", "W"]] = ()

    @classmethod
    def of(cls, config: RunConfig, flips: Sequence[Literal["D", "H", "W"]] = ()) -> Windowing:
        """As the run was trained, and as its `predicting` section says."""
        return cls(
            patch=config.batches.patch,
            stride=config.predicting.stride,
            overlap=config.predicting.overlap,
            batch=config.predicting.batch,
            minmax=config.method.views.minmax,
            flips=flips,
        )


class Options(TypedDict, total=False):
    """How a volume is gone through, for all functions here; see `blend_steps` for what is taken where one is missing."""

    #: Intensities as stored to what the network takes.
    normalise: Normalise | None
    #: Where the network is.
    device: torch.device | str
    #: (windows done, windows in all), after each batch.
    progress: Progress | None
    #: Asked before each batch.
    cancelled: Callable[[], bool]


def predict_slabs(
    network: Network, image: SlicedVolume, windowing: Windowing, **options: Unpack[Options]
) -> Iterator[Slab]:
    """Class probabilities of a volume, slab by slab in order, covering each plane once.

    A volume smaller than the window is padded with each window's lowest intensity, and cropped back exactly.

    Raises
    ------
    ConfigError : a stride that leaves gaps
    OutOfMemory : a batch of windows does not fit the device
    Cancelled : as asked; nothing further is handed out
    """
    return blend_slabs(
        lambda windows_b1dhw: _probabilities(network, windows_b1dhw, windowing.flips),
        image,
        windowing,
        **options,
    )


def blend_slabs(
    values: Callable[[Tensor], Tensor], image: SlicedVolume, windowing: Windowing, **options: Unpack[Options]
) -> Iterator[Slab]:
    """Any values of windows, (b, 1, d, h, w) to (b, C, d, h, w), averaged as `predict_slabs` does probabilities."""
    steps = blend_steps(values, image, windowing, **options)
    return (slab for slab in steps if slab is not None)


def blend_steps(
    values: Callable[[Tensor], Tensor],
    image: SlicedVolume,
    windowing: Windowing,
    *,
    normalise: Normalise | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Slab | None]:
    """As `blend_slabs`, with None after each batch of windows, so that the caller may do other things between."""
    d, h, w = image.shape
    grid = Grid.over((d, h, w), windowing.patch, windowing.stride, windowing.overlap)
    planes, prepare = _Planes(image), _Preparation(grid, normalise or _as_float32, windowing.minmax)
    blend = _Blend(grid, torch.device(device))
    done = 0
    for row, following in zip(grid.rows, [*grid.rows[1:], grid.padded[0]], strict=True):
        slab = planes.read(max(0, row - grid.before[0]), min(d, row + grid.patch[0] - grid.before[0]))
        for first in range(0, len(grid.columns), windowing.batch):
            columns = grid.columns[first : first + windowing.batch]
            if cancelled():
                raise Cancelled
            windows = np.stack([prepare.window(slab, column) for column in columns])
            blend.add(_guarded(values, windows, blend.device), columns)
            done += len(columns)
            if progress is not None:
                progress(done, len(grid))
            yield None
        for first, probability_CDHW in blend.advance(row, following - row):
            yield from _cropped(probability_CDHW, row + first, grid)


def predict_labels(
    network: Network, image: SlicedVolume, windowing: Windowing, **options: Unpack[Options]
) -> LabelDHW:
    """Most probable class of each voxel, uint8 (uint16 above 256 classes)."""
    slabs = predict_slabs(network, image, windowing, **options)
    return np.concatenate([most_probable(slab.probability_CDHW) for slab in slabs])


def most_probable(probability_CDHW: ProbabilityCDHW) -> LabelDHW:
    """Index of the largest probability, the lower class where two tie; uint8, or uint16 above 256 classes."""
    dtype = np.uint8 if len(probability_CDHW) <= 256 else np.uint16
    return np.asarray(probability_CDHW.argmax(axis=0), dtype=dtype)


class _Planes:
    """Planes of an image as stored, of which each is read once although rows of windows overlap.

    One buffer, as high as the tallest request so far; what is read goes there band by band.
    """

    def __init__(self, image: SlicedVolume) -> None:
        self._image = image
        self._start = self._stop = 0
        self._buffer = np.empty((0, *image.shape[1:]), np.asarray(image[0:0]).dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Planes start … stop - 1, valid until the next call; both must not decrease from call to call."""
        kept = self._buffer[start - self._start : self._stop - self._start]
        if stop - start > len(self._buffer):
            self._buffer = np.empty((stop - start, *self._buffer.shape[1:]), self._buffer.dtype)
        self._buffer[: len(kept)] = kept  # NumPy minds that they may overlap
        filled = max(self._stop, start)
        self._start, self._stop = start, stop
        step = _band(self._buffer[0].nbytes)
        for first in range(filled, stop, step):
            last = min(first + step, stop)
            self._buffer[first - start : last - start] = self._image[first:last]
        return self._buffer[: stop - start]


class _Preparation:
    """From planes as stored to what the network takes."""

    def __init__(self, grid: Grid, normalise: Normalise, minmax: bool) -> None:
        self._grid, self._normalise, self._minmax = grid, normalise, minmax

    def window(self, slab: NDArray[Any], column: tuple[int, int]) -> NDArray[np.float32]:
        """One window, (1, d, h, w), cut from a row's planes and padded where the volume ends."""
        y, x = column
        patch = self._grid.patch
        window = self._normalise(slab[:, y : y + patch[1], x : x + patch[2]])
        low, high = window.min(), window.max()
        d, h, w = window.shape  # short of the window's size only where the volume is, on both of its sides
        window = Padding.to_fit((d, h, w), patch).pad(window, low)
        if self._minmax:
            window = (window - low) / (high - low if high > low else np.float32(1))
        return np.asarray(window, dtype=np.float32)[None]


class _Blend:
    """Weighted sums over one row's height: the only place where windows meet."""

    def __init__(self, grid: Grid, device: torch.device) -> None:
        self._grid, self.device = grid, device
        self._height, self._plane = grid.patch[0], grid.padded[1:]
        self._importance = torch.from_numpy(importance(grid.patch)).to(device)
        self._sum: Tensor | None = None

    def add(self, probability_bCdhw: Tensor, columns: Sequence[tuple[int, int]]) -> None:
        """Add windows of the present row at their (H, W) starts."""
        if self._sum is None:
            shape = (probability_bCdhw.shape[1], self._height, *self._plane)
            self._sum = torch.zeros(shape, device=self.device)
        for p_Cdhw, column in zip(probability_bCdhw, columns, strict=True):
            self._sum[self._at(column)] += p_Cdhw * self._importance

    def advance(self, row: int, planes: int) -> Iterator[tuple[int, ProbabilityCDHW]]:
        """Hand the first `planes` of the row that starts at `row` out, finished, band by band as (first plane,
        values); then move on by as many."""
        if self._sum is None:
            raise RuntimeError("advance() before the first window was added")
        step = _band(self._sum[:, 0].nbytes)
        for first in range(0, planes, step):
            last = min(first + step, planes)
            mean = self._sum[:, first:last] / self._weight(row, row + first, row + last)
            yield first, np.asarray(mean.cpu().numpy(), dtype=np.float32)
        for buffer in self._sum:
            buffer[: self._height - planes] = buffer[planes:].clone()
            buffer[self._height - planes :] = 0

    def _weight(self, row: int, start: int, stop: int) -> Tensor:
        """Summed importance of all windows, up to those of `row`, over planes start … stop - 1 of the padded grid."""
        weight = torch.zeros(stop - start, *self._plane, device=self.device)
        for of_row in self._grid.rows:
            first, last = max(start, of_row), min(stop, of_row + self._height)
            if of_row <= row and first < last:
                for column in self._grid.columns:
                    part = self._importance[first - of_row : last - of_row]
                    weight[first - start : last - start][self._at(column)] += part
        return weight

    def _at(self, column: tuple[int, int]) -> tuple[Any, slice, slice]:
        (y, x), (_, h, w) = column, self._grid.patch
        return ..., slice(y, y + h), slice(x, x + w)


def _band(plane_bytes: int) -> int:
    """Planes that are handled together, of that many bytes each."""
    return max(1, _BAND_BYTES // max(1, plane_bytes))


@torch.no_grad()
def _guarded(
    values: Callable[[Tensor], Tensor], windows: NDArray[np.float32], device: torch.device
) -> Tensor:
    try:
        return values(torch.from_numpy(windows).to(device))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_large(windows) from error


def _probabilities(network: Network, x_b1dhw: Tensor, flips: Sequence[str]) -> Tensor:
    axes = [_AXES[name] for name in flips]
    mirrored = [chosen for n in range(len(axes) + 1) for chosen in combinations(axes, n)]
    views = (torch.flip(network(torch.flip(x_b1dhw, a)).float().softmax(dim=1), a) for a in mirrored)
    total = next(views)
    for view in views:
        total += view
    return total / len(mirrored)


def _too_large(windows: NDArray[np.float32]) -> OutOfMemory:
    batch, size = len(windows), " × ".join(map(str, windows.shape[2:]))
    remedy = (
        f"Set predicting.batch to {batch // 2}" if batch > 1 else "Use a CPU, or train with smaller patches"
    )
    return OutOfMemory(
        f"{batch} windows of {size} at once", "they must fit the device's memory", remedy, "predicting.batch"
    )


def _cropped(probability_CDHW: ProbabilityCDHW, row: int, grid: Grid) -> Iterator[Slab]:
    """The part inside the volume of planes that start at `row` of the padded grid; nothing, if there is none."""
    (z, y, x), (depth, height, width) = grid.before, grid.shape
    first, last = max(row, z), min(row + probability_CDHW.shape[1], z + depth)
    if first < last:
        inner = probability_CDHW[:, first - row : last - row, y : y + height, x : x + width]
        yield Slab(first - z, last - z, np.ascontiguousarray(inner))


def _as_float32(image: NDArray[Any]) -> NormalisedDHW:
    return image.astype(np.float32)
