"""From a project to what training reads: cases of each role, and the batches of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from napari_crln import config
from napari_crln.engine.ahead import ReadAhead
from napari_crln.engine.cohort import Case, Cohort
from napari_crln.errors import ProjectError
from napari_crln.method.learner import Batch, Randomness
from napari_crln.types import ShapeDHW

if TYPE_CHECKING:  # cases may come from elsewhere: what opens projects is loaded with one
    from napari_crln.volume.project import Project
    from napari_crln.volume.stored import Volume
    from napari_crln.volume.streamed import ChunkCache

Draws = list[tuple[int, ShapeDHW]]


@dataclass(frozen=True)
class TrainingData:
    """Volumes of a run by what they serve for; `validation` is never trained on."""

    class_names: tuple[str, ...]
    labelled: Sequence[Case]
    unlabelled: Sequence[Case]
    validation: Sequence[Case] = ()
    #: What the user should know about how they are held.
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, project: Project, settings: config.Engine | None = None, device: torch.device | None = None
    ) -> TrainingData:
        """Read a project's volumes, or open them where they do not fit in memory (`capacity.plan_holding`).

        Labels of unlabelled and test volumes are never opened.

        Raises
        ------
        ProjectError
            If nothing is labelled.
        """
        from napari_crln.engine.capacity import plan_holding
        from napari_crln.volume.streamed import ChunkCache

        settings = settings or config.Engine()
        labelled = project.with_role("labelled")
        if not labelled:
            raise ProjectError(
                "no labelled volume", "training needs at least one", "Label or import one", project.path
            )
        unlabelled, validation = project.with_role("unlabelled"), project.with_role("validation")
        holding = plan_holding([*labelled, *unlabelled, *validation], settings, device or torch.device("cpu"))
        cache = ChunkCache(settings.chunk_cache_mb) if holding.streamed else None
        return cls(
            project.classes.names,
            [read_case(v, with_target=True, cache=cache) for v in labelled],
            [read_case(v, with_target=False, cache=cache) for v in unlabelled],
            [read_case(v, with_target=True, cache=cache) for v in validation],
            (holding.warning,) if holding.warning else (),
        )


def read_case(volume: Volume, with_target: bool, cache: ChunkCache | None = None) -> Case:
    """A volume in memory, in its stored dtype, with its recorded normalisation; on disk, if there is a cache."""
    from napari_crln.volume.streamed import streamed_image, streamed_targets

    spacing = volume.grid.spacing
    if cache is not None:
        targets = streamed_targets(volume, cache) if with_target else None
        return Case(volume.name, streamed_image(volume, cache), volume.normalisation, targets, spacing)
    target = volume.read_targets() if with_target else None
    return Case(volume.name, volume.read_image(), volume.normalisation, target, spacing)


class Batches:
    """The batch of any step: a function of seed and step alone.

    Without unlabelled volumes the labelled ones serve as such too. Patches of streamed volumes are read ahead.
    """

    def __init__(self, data: TrainingData, settings: config.RunConfig, device: torch.device) -> None:
        sizes = settings.batches
        self._sizes, self._seed = sizes, settings.seed
        self.labelled = Cohort(data.labelled, sizes.patch, device, sizes.foreground)
        self.unlabelled = Cohort(data.unlabelled, sizes.patch, device) if data.unlabelled else self.labelled
        streamed = self.labelled.is_streamed or self.unlabelled.is_streamed
        self._ahead = ReadAhead(self._fetched, settings.engine.read_ahead) if streamed else None

    def at(self, random: Randomness) -> Batch:
        """The patches of a step, on the device."""
        of_l, of_u = self._draw(random) if self._ahead is None else self._ahead.take(random.step)
        return Batch(
            self.labelled.images(of_l),
            self.labelled.targets(of_l),
            self.unlabelled.images(of_u),
            self.unlabelled.validity(of_u),
        )

    def forget_ahead(self) -> None:
        """Drop what was read ahead: labels have changed, and with them what steps to come draw."""
        if self._ahead is not None:
            self._ahead.forget()

    def _draw(self, random: Randomness) -> tuple[Draws, Draws]:
        rng = random.numpy("sampling")
        of_l = self.labelled.draw(rng, self._sizes.labelled)
        return of_l, self.unlabelled.draw(rng, self._sizes.unlabelled)

    def _fetched(self, step: int) -> tuple[Draws, Draws]:
        """Draws of a step whose patches have been read."""
        of_l, of_u = self._draw(Randomness(self._seed, step))
        self.labelled.fetch(of_l)
        self.unlabelled.fetch(of_u)
        return of_l, of_u
