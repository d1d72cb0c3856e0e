"""A trained run as something that segments volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from napari_crln import config, events
from napari_crln.engine import checkpoint
from napari_crln.engine.device import choose_device, use_threads
from napari_crln.engine.predict import SlicedVolume, Windowing, predict_labels
from napari_crln.engine.state import build_learner, load_learner
from napari_crln.engine.validate import InferNetwork
from napari_crln.errors import RunError
from napari_crln.types import LabelDHW
from napari_crln.volume.intensity import Normalisation


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
        self.settings = config.load(folder / events.CONFIG_FILE)
        use_threads(self.settings.engine)
        self.device = choose_device(device or self.settings.engine.device)
        self.snapshot = _find(folder, which)
        self.class_names = tuple(self.snapshot.state["class_names"])
        self.learner = build_learner(self.settings, len(self.class_names), self.device)
        load_learner(self.learner, self.snapshot)
        self.network = InferNetwork(self.learner, self.settings, clues)
        self.windowing = Windowing.of(self.settings)

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


def _find(folder: Path, which: Literal["last", "best"]) -> checkpoint.Snapshot:
    checkpoints = folder / events.CHECKPOINTS
    found = checkpoint.best(checkpoints) if which == "best" else checkpoint.latest(checkpoints)[0]
    if found is None:
        rule = "prediction needs one" if which == "last" else "the best is chosen on validation volumes"
        raise RunError(f"no {which} checkpoint", rule, "Train first, or take the other", folder)
    return found
