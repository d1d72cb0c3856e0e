"""From a project to what training reads: cases of each role, and the batches of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from napari_crln import config
from napari_crln.engine.ahead import ReadAhead
from napari_crln.engine.cohort import Case, Cohort, PatchDraw, Relabelling
from napari_crln.engine.failpoint import failpoint
from napari_crln.engine.reading import Reading, nothing_left, unseen_classes
from napari_crln.errors import ProjectError
from napari_crln.method.learner import Batch, Randomness
from napari_crln.types import TargetDHW

if TYPE_CHECKING:  # cases may come from elsewhere: what opens projects is loaded with one
    from napari_crln.volume.project import Project
    from napari_crln.volume.stored import Volume
    from napari_crln.volume.streamed import ChunkCache

Draws: TypeAlias = tuple[list[PatchDraw], list[PatchDraw]]


@dataclass(frozen=True)
class TrainingData:
    """Volumes of a run by what they serve for; `validation` is never trained on."""

    class_names: tuple[str, ...]
    labelled: Sequence[Case]
    unlabelled: Sequence[Case]
    validation: Sequence[Case] = ()
    #: Names of all volumes in the order of import, which draws follow; none: labelled ones first.
    order: tuple[str, ...] = ()
    #: What the user should know: how they are held, which were set aside, what they lack.
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, project: Project, settings: config.Engine | None = None, device: torch.device | None = None
    ) -> TrainingData:
        """Read a project's volumes, or open their images where they do not fit in memory (`capacity.plan_holding`).

        Labels of unlabelled and test volumes are never opened. A volume whose stored data are damaged is set aside
        with a warning, and stays as it is on disk.

        Raises
        ------
        ProjectError
            If nothing is labelled.
        CorruptData
            If no labelled volume can be read.
        """
        from napari_crln.engine.capacity import plan_holding
        from napari_crln.volume.streamed import ChunkCache

        settings = settings or config.Engine()
        if not project.with_role("labelled"):
            raise ProjectError(
                "no labelled volume", "training needs at least one", "Label or import one", project.path
            )
        reading = Reading()
        labelled, unlabelled, validation = (
            reading.described(project.with_role(role)) for role in ("labelled", "unlabelled", "validation")
        )
        holding = plan_holding([*labelled, *unlabelled, *validation], settings, device or torch.device("cpu"))
        cache = ChunkCache(settings.chunk_cache_mb) if holding.streamed else None
        with_labels = reading.cases(labelled, partial(read_case, with_target=True, cache=cache))
        if not with_labels:
            raise nothing_left(reading.warnings, project)
        return cls(
            project.classes.names,
            with_labels,
            reading.cases(unlabelled, partial(read_case, with_target=False, cache=cache)),
            reading.cases(validation, partial(read_case, with_target=True, cache=cache)),
            order=tuple(project.volumes),
            warnings=(
                *filter(None, [holding.warning]),
                *reading.warnings,
                *unseen_classes(project.classes.names, with_labels),
            ),
        )


def read_case(volume: Volume, with_target: bool, cache: ChunkCache | None = None) -> Case:
    """A volume with its recorded normalisation: its image in memory, stored dtype, or on disk if there is a cache."""
    from napari_crln.volume.streamed import streamed_image

    failpoint("data:read")
    target, revision = None, 0
    if with_target:
        annotation, revision = volume.read_annotated()
        target = volume.classes.targets(annotation)
    image = volume.read_image() if cache is None else streamed_image(volume, cache)
    return Case(volume.name, image, volume.normalisation, target, volume.grid.spacing, revision)


class Batches:
    """The batch of any step: a function of seed, step and the labels as they are then.

    A labelled volume that is not annotated everywhere is an unlabelled one too: what nobody annotated of it would
    teach nothing else, and what somebody did is not contradicted by the teacher. So are all labelled ones where there is no other. Patches of streamed images are read ahead.
    """

    def __init__(self, data: TrainingData, settings: config.RunConfig, device: torch.device) -> None:
        sizes = settings.batches
        self._sizes, self._seed = sizes, settings.seed
        self.labelled = Cohort(data.labelled, sizes.patch, device, sizes.foreground)
        self._unlabelled = Cohort(data.unlabelled, sizes.patch, device, allow_empty=True)
        self._order = data.order or (*self.labelled.names, *self._unlabelled.names)
        self._silent = ""  # the last labelled volume, if it is one no more
        streamed = self.labelled.is_streamed or self._unlabelled.is_streamed
        self._ahead = ReadAhead(self._fetched, settings.engine.read_ahead) if streamed else None
        for name in self.labelled.names:
            self._share(name)

    @property
    def unlabelled(self) -> Cohort:
        """What unlabelled patches are drawn from."""
        return self._unlabelled if len(self._unlabelled) else self.labelled

    def target(self, name: str) -> TargetDHW | None:
        """What training has as the targets of a volume, (D, H, W); None of an unlabelled one."""
        return self.labelled.target(name) if name in self.labelled.names else None

    def relabel(self, change: Relabelling) -> None:
        """Put new labels into place; a volume that had none becomes a labelled one."""
        if change.name in self.labelled.names:
            self.labelled.relabel(change)
        else:
            self.labelled.admit(self._unlabelled.share(change.name), self._order, change)
        if self._silent not in ("", change.name):
            self.labelled.release(self._silent)
        self._silent = ""
        self._share(change.name)
        self._forget_ahead()

    def unlabel(self, name: str) -> None:
        """Make a volume an unlabelled one; the last labelled one stays, without labels, until another comes."""
        self.labelled.silence(name)
        self._share(name)
        if len(self.labelled) > 1:
            self.labelled.release(name)
        else:
            self._silent = name
        self._forget_ahead()

    def set_aside(self, name: str) -> bool:
        """Draw no more of a volume; False, and nothing is done, where no labelled one would be left."""
        if name in self.labelled.names:
            if len(self.labelled) == 1:
                return False
            self.labelled.release(name)
        if name in self._unlabelled.names:
            self._unlabelled.release(name)
        self._forget_ahead()
        return True

    def _share(self, name: str) -> None:
        """Let a labelled volume serve as unlabelled too, if not all of it is annotated."""
        serves = name in self._unlabelled.names
        if self.labelled.is_complete(name) and serves:
            self._unlabelled.release(name)
        elif not self.labelled.is_complete(name) and not serves:
            self._unlabelled.admit(self.labelled.share(name), self._order)

    def draws(self, random: Randomness) -> Draws:
        """Which patches a step takes, labelled and unlabelled: index of the volume in its cohort, and corner."""
        rng = random.numpy("sampling")
        of_l = self.labelled.draw(rng, self._sizes.labelled)
        return of_l, self.unlabelled.draw(rng, self._sizes.unlabelled)

    def at(self, random: Randomness) -> Batch:
        """The patches of a step, on the device."""
        of_l, of_u = self.draws(random) if self._ahead is None else self._ahead.take(random.step)
        return Batch(
            self.labelled.images(of_l),
            self.labelled.targets(of_l),
            self.unlabelled.images(of_u),
            self._taught(of_u),
        )

    def _taught(self, of_u: Sequence[PatchDraw]) -> Tensor:
        """Where the teacher's pseudo-labels may teach, (B, D, H, W): not where somebody has annotated.

        Where there are labelled volumes only, and all complete, everywhere.
        """
        masks = self.unlabelled.validity(of_u)
        names = self._unlabelled.names
        if not names:
            return masks
        for mask, (index, corner) in zip(masks, of_u, strict=True):
            if names[index] in self.labelled.names:
                mask.masked_fill_(self.labelled.annotated(names[index], corner), False)
        return masks

    def _fetched(self, step: int) -> Draws:
        """Draws of a step whose patches have been read."""
        of_l, of_u = self.draws(Randomness(self._seed, step))
        self.labelled.fetch(of_l)
        self.unlabelled.fetch(of_u)
        return of_l, of_u

    def _forget_ahead(self) -> None:
        """What was drawn ahead followed from labels that have changed."""
        if self._ahead is not None:
            self._ahead.forget()
