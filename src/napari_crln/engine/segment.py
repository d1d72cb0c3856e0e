"""Segment volumes by a trained run: its teacher from a checkpoint, slab by slab, in bounded memory.

What a slab gives is appended to an unnamed file beside the result, and read back from there by slices: the store
and the writers take arrays that can be sliced along D, and no whole volume of labels or probabilities is
ever held. Being unnamed, the file leaves nothing behind, whatever happens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from napari_crln.config import RunConfig
from napari_crln.durable import space_for
from napari_crln.engine import checkpoint
from napari_crln.engine.device import choose_device, use_threads
from napari_crln.engine.predict import Progress, Windowing, most_probable, predict_slabs
from napari_crln.engine.state import build_learner, load_learner
from napari_crln.engine.validate import InferNetwork
from napari_crln.errors import RunError
from napari_crln.method.learner import Learner
from napari_crln.types import LabelDHW
from napari_crln.volume.stored import Volume

Which = Literal["last", "best"]


@dataclass(frozen=True)
class Segmentation:
    """A volume's result; arrays are maps of files that vanish when the `segment` block ends."""

    #: Class indices, (D, H, W), uint8 or uint16.
    labels: LabelDHW
    #: Class probabilities, (C, D, H, W), float16; None unless asked for.
    probability: NDArray[np.float16] | None


@dataclass(frozen=True)
class Segmenter:
    """A run's learner as of a checkpoint. Make one by `load`.

    Parameters
    ----------
    learner : in eval mode, on the device
    settings : of the run
    class_names : that it was trained on
    step : optimiser steps done
    """

    learner: Learner
    settings: RunConfig
    class_names: tuple[str, ...]
    step: int
    device: torch.device

    @classmethod
    def load(
        cls, checkpoints: Path, settings: RunConfig, which: Which = "last", device: str | None = None
    ) -> Segmenter:
        """Read a run's last sound checkpoint, or the best on validation.

        Parameters
        ----------
        checkpoints : folder of the run's checkpoints
        device : none: that of the configuration

        Raises
        ------
        RunError
            If there is no such checkpoint.
        CorruptCheckpoint
            If the best one is damaged.
        """
        use_threads(settings.engine)
        snapshot = _snapshot(checkpoints, which)
        names = tuple(snapshot.state["class_names"])
        where = choose_device(device or settings.engine.device)
        learner = build_learner(settings, len(names), where)
        load_learner(learner, snapshot)
        return cls(learner, settings, names, snapshot.step, where)

    @contextmanager
    def segment(
        self,
        volume: Volume,
        *,
        clues: bool | None = None,
        probability: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Segmentation]:
        """Predict one volume; its arrays are valid within the `with` block.

        Parameters
        ----------
        clues : predict from z + (1 - μ) M, or from z alone; none: as the run's configuration says
        probability : keep the class probabilities too
        progress : called with windows done, windows in all

        Raises
        ------
        RunError : classes differ from the run's
        ConfigError, OutOfMemory, OutOfSpace, CorruptData
        """
        self._check_classes(volume)
        slabs = predict_slabs(
            InferNetwork(self.learner, self.settings, clues),
            volume.image,
            Windowing.of(self.settings),
            normalise=volume.normalisation.apply,
            device=self.device,
            progress=progress,
        )
        d, h, w = volume.grid.shape
        count = len(self.class_names)
        folder = volume.path.parent
        with tempfile.TemporaryFile(dir=folder) as labels, tempfile.TemporaryFile(dir=folder) as chances:
            dtype = np.dtype(np.uint8)
            for slab in slabs:
                found = most_probable(slab.probability_CDHW)
                dtype = found.dtype
                _append(labels, found, folder)
                if probability:
                    _append(chances, slab.probability_CDHW.swapaxes(0, 1).astype(np.float16), folder)
            yield Segmentation(
                _mapped(labels, dtype, (d, h, w)),
                _mapped(chances, np.dtype(np.float16), (d, count, h, w)).swapaxes(0, 1)
                if probability
                else None,
            )

    def _check_classes(self, volume: Volume) -> None:
        if volume.classes.names != self.class_names:
            raise RunError(
                f"trained on classes {', '.join(self.class_names)}",
                f"the volume's project has {', '.join(volume.classes.names)}",
                "Use a run of this project",
                volume.name,
            )


def _snapshot(checkpoints: Path, which: Which) -> checkpoint.Snapshot:
    found = checkpoint.best(checkpoints) if which == "best" else checkpoint.latest(checkpoints)[0]
    if found is None:
        lacks = "no validation has marked a best one" if which == "best" else "none verifies"
        raise RunError(
            f"no {which} checkpoint: {lacks}", "prediction needs one", "Train or resume the run", checkpoints
        )
    return found


def _append(file: IO[bytes], array: NDArray[Any], folder: Path) -> None:
    with space_for(folder, array.nbytes):
        file.write(np.ascontiguousarray(array).tobytes())
        file.flush()


def _mapped(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return np.memmap(file, dtype, "r", shape=shape)  # type: ignore[call-overload, no-any-return]
