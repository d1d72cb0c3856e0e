"""Reading a run's volumes where some may be damaged: those are set aside, and the run goes on with the others.

Nothing of a damaged volume is changed: a person decides whether to restore it or to import it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_crln.errors import CorruptData, VolumeError
from napari_crln.types import IGNORE, TargetDHW

if TYPE_CHECKING:
    from napari_crln.engine.cohort import Case
    from napari_crln.volume.project import Project
    from napari_crln.volume.stored import Volume

_Read = TypeVar("_Read")
_BAND = 1 << 20  # voxels counted together


class DamagedVolume(CorruptData):
    """What is read of a volume while it is trained on is damaged.

    Parameters
    ----------
    volume : its name
    fault : what is wrong
    """

    def __init__(self, volume: str, fault: CorruptData) -> None:
        super().__init__(fault.value, fault.rule, fault.remedy, fault.where)
        self.volume, self._fault = volume, fault

    def __reduce__(self) -> tuple[type[DamagedVolume], tuple[Any, ...]]:
        return type(self), (self.volume, self._fault)


@contextmanager
def naming(volume: str) -> Iterator[None]:
    """Say which volume it is whose data turn out to be damaged."""
    try:
        yield
    except CorruptData as error:
        raise DamagedVolume(volume, error) from error


def set_aside(volume: str, error: Exception) -> str:
    """The warning for a volume that training does without."""
    return f"volume {volume} is set aside: {error}"


class Reading:
    """Reads volumes, setting damaged ones aside.

    Attributes
    ----------
    warnings : one for each volume that was set aside, with what is wrong
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def described(self, volumes: Sequence[Volume]) -> list[Volume]:
        """Those whose descriptions are sound; no voxel is read."""
        return [volume for volume in volumes if self._try(volume, lambda v: (v.image, v.grid)) is not None]

    def cases(self, volumes: Sequence[Volume], read: Callable[[Volume], Case]) -> list[Case]:
        """Those that can be read, in order."""
        found = [self._try(volume, read) for volume in volumes]
        return [case for case in found if case is not None]

    def _try(self, volume: Volume, read: Callable[[Volume], _Read]) -> _Read | None:
        try:
            return read(volume)
        except (CorruptData, VolumeError) as error:
            self.warnings.append(set_aside(volume.name, error))
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


def nothing_left(warnings: Sequence[str], project: Project) -> CorruptData:
    """The error where no labelled volume can be read."""
    return CorruptData(
        f"no labelled volume can be read: {warnings[0]}",
        "training needs at least one",
        "Restore one from a copy, or import it again",
        project.path,
    )


def _classes_in(target: TargetDHW | None) -> set[int]:
    """Class indices in a target, IGNORE among them; counting is faster than sorting.

    Band by band, as `bincount` makes eight bytes of each voxel.
    """
    found: set[int] = set()
    voxels = np.zeros(0, np.int16) if target is None else target.reshape(-1)
    for start in range(0, len(voxels), _BAND):
        counts = np.bincount(
            voxels[start : start + _BAND].astype(np.uint16) + np.uint16(1)
        )  # IGNORE wraps to 0
        found.update((np.flatnonzero(counts) - 1).tolist())
    return found
