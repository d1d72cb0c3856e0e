"""From a project to what training reads: cases of each role, and the batches of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from napari_crln import config
from napari_crln.engine.cohort import Case, Cohort, PatchDraw
from napari_crln.errors import ProjectError
from napari_crln.method.learner import Batch, Randomness
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume


@dataclass(frozen=True)
class TrainingData:
    """Volumes of a run by what they serve for; `validation` is never trained on."""

    class_names: tuple[str, ...]
    labelled: Sequence[Case]
    unlabelled: Sequence[Case]
    validation: Sequence[Case] = ()

    @classmethod
    def of(cls, project: Project) -> TrainingData:
        """Read a project's volumes; labels of unlabelled and test volumes are never opened.

        Raises
        ------
        ProjectError
            If nothing is labelled.
        """
        labelled = [read_case(v, with_target=True) for v in project.with_role("labelled")]
        if not labelled:
            raise ProjectError(
                "no labelled volume", "training needs at least one", "Label or import one", project.path
            )
        return cls(
            project.classes.names,
            labelled,
            [read_case(v, with_target=False) for v in project.with_role("unlabelled")],
            [read_case(v, with_target=True) for v in project.with_role("validation")],
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

    def draws(self, random: Randomness) -> tuple[list[PatchDraw], list[PatchDraw]]:
        """Which patches a step takes, labelled and unlabelled: index of the volume in its cohort, and corner."""
        rng = random.numpy("sampling")
        of_l = self.labelled.draw(rng, self._sizes.labelled)
        return of_l, self.unlabelled.draw(rng, self._sizes.unlabelled)

    def at(self, random: Randomness) -> Batch:
        """The patches of a step, on the device."""
        of_l, of_u = self.draws(random)
        return Batch(
            self.labelled.images(of_l),
            self.labelled.targets(of_l),
            self.unlabelled.images(of_u),
            self.unlabelled.validity(of_u),
        )
