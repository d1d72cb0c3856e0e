"""Voxels and classes that cannot teach: a clear error with a remedy that works, or finite training with a warning."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tomlkit
from numpy.typing import NDArray
from playground import Call, Playground, ids, save, voxels

from napari_crln import config, events
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import TrainingData
from napari_crln.engine.loop import Trainer
from napari_crln.errors import InvalidLabel
from napari_crln.method.baselines import STEPS
from napari_crln.types import IGNORE
from napari_crln.volume.intensity import measure
from napari_crln.volume.project import Project

Change = Callable[[NDArray[Any]], NDArray[Any]]


def _put(value: float, kind: type = np.float32) -> Change:
    """One voxel of this value."""

    def change(array: NDArray[Any]) -> NDArray[Any]:
        changed = array.astype(kind)
        changed[2, 3, 4] = value
        return changed

    return change


def _same(array: NDArray[Any]) -> NDArray[Any]:
    return array


class Odd(NamedTuple):
    """What is done to image and label, what the message holds, the remedy, and what following it means."""

    image: Change
    label: Change
    words: str
    remedy: str
    mend: Change
    options: tuple[str, ...] = ()


ODD = {
    "NaN": Odd(_put(np.nan), _same, "1 NaN or infinite voxel of 7920", "Replace them in the file",
               lambda a: np.nan_to_num(a, nan=float(np.nanmin(a)))),
    "infinity": Odd(_put(-np.inf), _same, "1 NaN or infinite voxel", "Replace them in the file",
                    lambda a: np.where(np.isfinite(a), a, a[np.isfinite(a)].min()).astype(np.float32)),
    "constant": Odd(lambda a: np.full_like(a, 7), _same, "every voxel is 7", "Check that the right file was given",
                    lambda a: voxels()),
    "too wide": Odd(lambda a: a.astype(np.float32) * np.float32(1e36), _same, "voxels from", "Rescale the image", lambda a: voxels()),
    "unknown id": Odd(_same, _put(9, np.uint8), "unknown label id 9", "Correct the label", lambda a: np.where(a == 9, 0, a)),
    "negative id": Odd(_same, _put(-3, np.int16), "unknown label id -3", "Correct the label",
                       lambda a: np.where(a < 0, 0, a)),
    "fraction": Odd(_same, _put(3.6), "1 voxels with values such as 3.6", "Give the segmentation", np.rint),
    "NaN in the label": Odd(_same, _put(np.nan), "values such as nan", "Give the segmentation", np.nan_to_num),
    "id for nobody looked": Odd(_same, _put(255, np.uint8), "unknown label id 255", "Correct the label", _same,
                                ("--ignore=255",)),
    "background only": Odd(_same, np.zeros_like, "only background", "import the volume as unlabelled", lambda a: ids()),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_the_error_is_clear_and_its_remedy_works(
    empty: Project, ground: Playground, call: Call, sound: Callable[[Project], None], case: str
) -> None:
    odd = ODD[case]
    label_is_odd = odd.image is _same
    image = save(ground.inside / "image.nii", odd.image(voxels()))
    label = save(ground.inside / "label.nii", odd.label(ids()))
    answer = call("import", image, empty.path, "--label", label)
    assert answer.code == 3
    assert answer.err.count("\n") == 1
    assert ("label.nii" if label_is_odd else "image.nii") in answer.err
    assert odd.words in answer.err
    assert odd.remedy in answer.err
    assert not Project.open(empty.path).volumes
    mended = odd.mend(odd.label(ids()) if label_is_odd else odd.image(voxels()))
    save(label if label_is_odd else image, mended)
    answer = call("import", image, empty.path, "--label", label, *odd.options)
    assert answer.code == 0, answer.err
    sound(Project.open(empty.path))


def test_background_only_may_come_in_as_unlabelled(empty: Project, ground: Playground, call: Call) -> None:
    image = save(ground.inside / "image.nii", voxels())
    assert call("import", image, empty.path, "--role=unlabelled").code == 0


TINY: dict[str, Any] = {
    "iterations": 4,
    "network": {"base_filters": 2},
    "batches": {"patch": [16, 16, 16]},
    "engine": {"device": "cpu", "log_every": 1, "checkpoint_every": 10, "preview_share": 0.0, "threads": 1},
}
CRLN: dict[str, Any] = {
    "dim": {"prototypes": 2, "width": 4},
    "rectification": {"after": 1},
    "cps": {"anchors": 8, "negatives": 16, "valid_confidence": 0.4},
}


def _train(data: TrainingData, folder: Path, method: str) -> list[events.Event]:
    folder.mkdir()
    settings = config.build(TINY, {"method": CRLN | {"name": method}})
    seen = list(Trainer(data, settings, folder))
    losses = [value for e in seen if isinstance(e, events.Stepped) for value in e.losses.values()]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    assert isinstance(seen[-1], events.Ended)
    assert (seen[-1].reason, seen[-1].step) == ("finished", 4)
    return seen


def _case(name: str, target: NDArray[np.int16] | None, seed: int = 0) -> Case:
    image = voxels(seed).T.copy()
    return Case(name, image, measure(image, "percentile"), target)


def _nobody() -> NDArray[np.int16]:
    return np.full(ids().T.shape, IGNORE, np.int16)


@pytest.mark.parametrize("method", STEPS)
def test_a_batch_without_any_annotated_voxel_trains_on_finitely(ground: Playground, method: str) -> None:
    data = TrainingData(("background", "head", "tail"), [_case("l", _nobody())], [_case("u", None, 1)])
    _train(data, ground.inside / "run", method)


@pytest.mark.parametrize("method", ["mean-teacher", "crln"])
def test_a_class_that_nobody_annotated_is_told(ground: Playground, project: Project, method: str) -> None:
    for name in ("l1", "l2"):
        annotation = project.volumes[name].read_annotation()
        project.volumes[name].write_annotation(
            np.where(annotation == 3, 1, annotation).astype(np.uint8), "dense"
        )
    seen = _train(TrainingData.of(project), ground.inside / "run", method)
    warned = [e.message for e in seen if isinstance(e, events.Warned)]
    assert warned == ["no labelled volume shows class 'tail': it cannot be learned"]


@pytest.mark.parametrize("erased", [("l2",), ("l1", "l2")])
def test_labelled_volumes_that_were_erased_are_told(
    ground: Playground, project: Project, erased: tuple[str, ...]
) -> None:
    """One, or all of them: then no batch has an annotated voxel."""
    for name in erased:
        volume = project.volumes[name]
        volume.write_annotation(np.zeros_like(volume.read_annotation()), "sparse")
    seen = _train(TrainingData.of(project), ground.inside / "run", "mean-teacher")
    warned = [e.message for e in seen if isinstance(e, events.Warned)]
    told = [f"volume {name} has no annotated voxel: it teaches nothing as labelled" for name in erased]
    assert warned[: len(told)] == told
    unseen = ["head", "tail"] if len(erased) == 2 else []
    assert warned[len(told) :] == [
        f"no labelled volume shows class {name!r}: it cannot be learned" for name in unseen
    ]


@pytest.mark.usefixtures("leaves_damage")
def test_a_class_that_project_toml_lost_is_told(ground: Playground, project: Project) -> None:
    """Stored annotation values beyond the classes: set aside, and no index runs out of the network's."""
    path = project.path / "project.toml"
    document = tomlkit.parse(path.read_text())
    document["classes"].pop()  # type: ignore[union-attr]
    path.write_text(tomlkit.dumps(document))
    volume = Project.open(project.path).volumes["l1"]
    assert len(volume.classes) == 2
    with pytest.raises(InvalidLabel, match="annotation value 3"):
        volume.read_targets()


def test_a_patch_of_one_value_is_normalised_finitely(ground: Playground) -> None:
    """Constant where the patch lies, in a volume that is not: min-max of a view divides by nothing."""
    image = np.zeros((40, 40, 40), np.uint8)
    image[0, 0, 0], image[-1, -1, -1] = 1, 255
    target = np.zeros(image.shape, np.int16)
    target[20:24, 20:24, 20:24] = 1
    case = Case("flat", image, measure(image, "percentile"), target)
    data = TrainingData(("background", "head"), [case], [Case("u", image, case.normalisation)])
    _train(data, ground.inside / "run", "crln")
