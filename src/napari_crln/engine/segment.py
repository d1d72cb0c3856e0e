"""A trained run as something that segments volumes.

`Segmenter(folder)(image, normalisation)` gives labels in memory; `segment(volume)` works in bounded memory: what
a slab gives is appended to an unnamed file beside the volume, and read back from there by slices, which is
all that the store needs. Being unnamed, the file leaves nothing behind, whatever happens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_crln import config, events
from napari_crln.durable import space_for
from napari_crln.engine import checkpoint
from napari_crln.engine.device import choose_device, use_threads
from napari_crln.engine.fitting import in_effect
from napari_crln.engine.predict import (
    SlicedVolume,
    Windowing,
    most_probable,
    predict_labels,
    predict_slabs,
)
from napari_crln.engine.state import build_learner, load_learner
from napari_crln.engine.validate import InferNetwork
from napari_crln.errors import RunError
from napari_crln.types import LabelDHW
from napari_crln.volume.intensity import Normalisation
from napari_crln.volume.stored import Volume
from napari_crln.volume.streamed import ChunkCache, streamed_image

_CACHE_MB = 128  # decoded chunks: bands of planes are thinner than chunks


class Segmentation(NamedTuple):
    """A volume's result: arrays that can be sliced along D, and vanish when the `segment` block ends."""

    #: Class indices, (D, H, W), uint8 or uint16.
    labels: LabelDHW
    #: Class probabilities, (C, D, H, W), float16; None unless asked for.
    probability: NDArray[np.float16] | None


class Segmenter:
    """The teacher of a run's checkpoint, and the windows that it was trained for.

    Parameters
    ----------
    folder : run folder
    which : the last checkpoint that verifies, or the best on validation
    clues : predict from z + (1 - μ) M, or from z alone; none: as the configuration says
    device : overrides the configuration's

    Raises
    ------
    RunError
        If the run has no such checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        which: Literal["last", "best"] = "last",
        *,
        clues: bool | None = None,
        device: str | None = None,
    ) -> None:
        configured = config.load(folder / events.CONFIG_FILE)
        use_threads(configured.engine)
        self.device = choose_device(device or configured.engine.device)
        self.snapshot = _find(folder, which)
        #: As in effect when the checkpoint was made: a patch may have been halved to fit in memory.
        self.settings = in_effect(configured, self.snapshot.state.get("fitted"))
        self.class_names = tuple(self.snapshot.state["class_names"])
        self.learner = build_learner(self.settings, len(self.class_names), self.device)
        load_learner(self.learner, self.snapshot)
        self.network = InferNetwork(self.learner, self.settings, clues)
        self.windowing = Windowing.of(self.settings)
        self.clues = self.settings.method.uses_clues and (
            self.settings.predicting.clues if clues is None else clues
        )

    def __call__(self, image: SlicedVolume, normalisation: Normalisation, **options: Any) -> LabelDHW:
        """Class indices (D, H, W); `options` as of `predict.predict_slabs`."""
        return predict_labels(
            self.network,
            image,
            self.windowing,
            normalise=normalisation.apply,
            device=self.device,
            **options,
        )

    @contextmanager
    def segment(self, volume: Volume, *, probability: bool = False, **options: Any) -> Iterator[Segmentation]:
        """Segment a project's volume; memory is a slab, whatever its depth.

        Parameters
        ----------
        probability : give the class probabilities too
        options : as of `predict.predict_slabs`

        Raises
        ------
        RunError
            If the volume's classes are not the run's.
        ConfigError, OutOfMemory, OutOfSpace, CorruptData
        """
        self._check_classes(volume)
        slabs = predict_slabs(
            self.network,
            streamed_image(volume, ChunkCache(_CACHE_MB)),
            self.windowing,
            normalise=volume.normalisation.apply,
            device=self.device,
            **options,
        )
        with _Spool(volume) as labels, _Spool(volume) as chances:
            for slab in slabs:
                labels.append(most_probable(slab.probability_CDHW))
                if probability:
                    chances.append(slab.probability_CDHW.swapaxes(0, 1).astype(np.float16))
            yield Segmentation(labels.mapped(), chances.mapped().swapaxes(0, 1) if probability else None)

    def _check_classes(self, volume: Volume) -> None:
        if volume.classes.names != self.class_names:
            raise RunError(
                f"trained on classes {', '.join(self.class_names)}",
                f"the volume's project has {', '.join(volume.classes.names)}",
                "Use a run of this project",
                volume.name,
            )


class _Spool:
    """An array that grows along D in an unnamed file on the volume's disk."""

    def __init__(self, volume: Volume) -> None:
        self._folder = volume.path.parent
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 — closed by __exit__
        self._depth, self._plane = 0, np.empty((0,), np.uint8)

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, planes: NDArray[Any]) -> None:
        """Add planes (d, …)."""
        with space_for(self._folder, planes.nbytes):
            self._file.write(planes.tobytes())
            self._file.flush()
        self._depth, self._plane = self._depth + len(planes), planes[:0]

    def mapped(self) -> NDArray[Any]:
        """All planes, read when sliced."""
        return np.memmap(self._file, self._plane.dtype, "r", shape=(self._depth, *self._plane.shape[1:]))


def _find(folder: Path, which: Literal["last", "best"]) -> checkpoint.Snapshot:
    checkpoints = folder / events.CHECKPOINTS
    found = checkpoint.best(checkpoints) if which == "best" else checkpoint.latest(checkpoints)[0]
    if found is None:
        rule = "prediction needs one" if which == "last" else "the best is chosen on validation volumes"
        raise RunError(f"no {which} checkpoint", rule, "Train first, or take the other", folder)
    return found
