"""From a project to what training reads: cases of each role, and the batches of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from napari_crln import config
from napari_crln.engine.cohort import Case, Cohort
from napari_crln.errors import CorruptData, ProjectError, VolumeError
from napari_crln.method.learner import Batch, Randomness
from napari_crln.types import IGNORE, TargetDHW
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume


@dataclass(frozen=True)
class TrainingData:
    """Volumes of a run by what they serve for; `validation` is never trained on."""

    class_names: tuple[str, ...]
    labelled: Sequence[Case]
    unlabelled: Sequence[Case]
    validation: Sequence[Case] = ()
    #: What the user should know about them, such as volumes that were set aside.
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, project: Project) -> TrainingData:
        """Read a project's volumes; labels of unlabelled and test volumes are never opened.

        A volume whose stored data are damaged is set aside with a warning, and stays as it is on disk.

        Raises
        ------
        ProjectError
            If nothing is labelled.
        CorruptData
            If no labelled volume can be read.
        """
        chosen = project.with_role("labelled")
        if not chosen:
            raise ProjectError(
                "no labelled volume", "training needs at least one", "Label or import one", project.path
            )
        reading = Reading()
        labelled = reading.cases(chosen, with_target=True)
        unlabelled = reading.cases(project.with_role("unlabelled"), with_target=False)
        validation = reading.cases(project.with_role("validation"), with_target=True)
        if not labelled:
            raise _nothing_left(reading.warnings, project)
        remarks = (*reading.warnings, *unseen_classes(project.classes.names, labelled))
        return cls(project.classes.names, labelled, unlabelled, validation, remarks)


class Reading:
    """Reads volumes, setting aside those that are damaged; `warnings` says which and why."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def cases(self, volumes: Sequence[Volume], *, with_target: bool) -> list[Case]:
        """Those that can be read, in order."""
        read = [self._case(volume, with_target) for volume in volumes]
        return [case for case in read if case is not None]

    def _case(self, volume: Volume, with_target: bool) -> Case | None:
        try:
            return read_case(volume, with_target)
        except (CorruptData, VolumeError) as error:
            self.warnings.append(f"volume {volume.name} is set aside: {error}")
            return None


def unseen_classes(names: Sequence[str], labelled: Sequence[Case]) -> list[str]:
    """A warning for each class that no labelled volume shows a voxel of, and for volumes without any label."""
    seen: set[int] = set()
    warnings = []
    for case in labelled:
        present = _classes_in(case.target)
        if present <= {IGNORE}:
            warnings.append(f"volume {case.name} has no annotated voxel: it teaches nothing as labelled")
        seen |= present
    for index, name in enumerate(names):
        if index not in seen and index > 0:
            warnings.append(f"no labelled volume shows class {name!r}: it cannot be learned")
    return warnings


def _classes_in(target: TargetDHW | None) -> set[int]:
    """Class indices in a target, IGNORE among them; counting is faster than sorting."""
    if target is None:
        return set()
    counts = np.bincount(target.ravel().astype(np.uint16) + np.uint16(1))  # IGNORE wraps to 0
    return set((np.flatnonzero(counts) - 1).tolist())


def _nothing_left(warnings: Sequence[str], project: Project) -> CorruptData:
    return CorruptData(
        f"no labelled volume can be read: {warnings[0]}",
        "training needs at least one",
        "Restore one from a copy, or import it again",
        project.path,
    )


def read_case(volume: Volume, with_target: bool) -> Case:
    """A volume in memory, in its stored dtype, with its recorded normalisation."""
    target = volume.read_targets() if with_target else None
    return Case(volume.name, volume.read_image(), volume.normalisation, target, volume.grid.spacing)


class Batches:
    """The batch of any step: a function of seed and step alone.

    Without unlabelled volumes the labelled ones serve as such too.
    """

    def __init__(self, data: TrainingData, settings: config.RunConfig, device: torch.device) -> None:
        sizes = settings.batches
        self._sizes = sizes
        self.labelled = Cohort(data.labelled, sizes.patch, device, sizes.foreground)
        self.unlabelled = Cohort(data.unlabelled, sizes.patch, device) if data.unlabelled else self.labelled

    def at(self, random: Randomness) -> Batch:
        """The patches of a step, on the device."""
        rng = random.numpy("sampling")
        of_l = self.labelled.draw(rng, self._sizes.labelled)
        of_u = self.unlabelled.draw(rng, self._sizes.unlabelled)
        return Batch(
            self.labelled.images(of_l),
            self.labelled.targets(of_l),
            self.unlabelled.images(of_u),
            self.unlabelled.validity(of_u),
        )
