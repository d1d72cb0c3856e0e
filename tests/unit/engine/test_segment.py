from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_crln import config
from napari_crln.engine import segment
from napari_crln.engine.checkpoint import save
from napari_crln.engine.segment import Segmenter
from napari_crln.engine.state import TrainingState
from napari_crln.errors import RunError
from napari_crln.run.folder import RunFolder
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.phantom import CLASSES, make_phantom
from napari_crln.volume.project import Project

_VALUES = {"network": {"base_filters": 2}, "batches": {"patch": [16, 16, 16]}, "engine": {"device": "cpu"}}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    names = {name: index for index, name in enumerate(("background", *CLASSES))}
    made = Project.create(tmp_path / "p.crln", ClassTable.from_ids(names))
    image, _ = make_phantom(1, (40, 20, 24))
    made.add("a", image, Grid.from_spacing((40, 20, 24)), "test")
    return made


@pytest.fixture
def run(project: Project) -> RunFolder:
    import torch

    settings = config.build(_VALUES)
    folder = RunFolder.create(project.path, settings)
    state = TrainingState.initial(settings, project.classes.names, torch.device("cpu"))
    save(folder.checkpoints, state.snapshot(), keep=1)
    return folder


def test_streamed_and_in_memory_give_the_same_labels(project: Project, run: RunFolder) -> None:
    segmenter, volume = Segmenter(run.path), project.volume("a")
    expected = segmenter(volume.read_image(), volume.normalisation)
    with segmenter.segment(volume, probability=True) as result:
        assert result.probability is not None
        assert result.probability.shape == (4, 40, 20, 24)
        np.testing.assert_array_equal(result.labels, expected)
        assert (result.labels[7:9] == expected[7:9]).all()
        np.testing.assert_allclose(np.asarray(result.probability, np.float32).sum(0), 1, atol=3e-3)


def test_nothing_is_left_behind(project: Project, run: RunFolder) -> None:
    before = sorted(project.path.rglob("*"))
    with (
        pytest.raises(KeyboardInterrupt),
        Segmenter(run.path).segment(project.volume("a"), probability=True),
    ):
        raise KeyboardInterrupt
    assert sorted(project.path.rglob("*")) == before


def test_clues_change_the_prediction_only_where_asked(project: Project, run: RunFolder) -> None:
    volume = project.volume("a")
    image = volume.read_image()
    plain, fused = (Segmenter(run.path, clues=clues)(image, volume.normalisation) for clues in (False, True))
    default = Segmenter(run.path)
    assert (plain != fused).any()
    assert default.clues
    np.testing.assert_array_equal(default(image, volume.normalisation), fused)


def test_windows_are_those_that_the_checkpoint_was_trained_with(project: Project) -> None:
    """A run may have halved its patch to fit in memory, and its configuration still names the former one."""
    import torch

    settings = config.build(
        _VALUES, {"batches": {"patch": [32, 32, 16]}, "predicting": {"stride": [8, 24, 16]}}
    )
    folder = RunFolder.create(project.path, settings)
    state = TrainingState.initial(settings, project.classes.names, torch.device("cpu"))
    state.fitted = {"patch": [16, 16, 16], "labelled": 1, "unlabelled": 1}
    save(folder.checkpoints, state.snapshot(), keep=1)
    segmenter, volume, seen = Segmenter(folder.path), project.volume("a"), set()
    infer = segmenter.learner.infer

    def note(windows: torch.Tensor, *options: bool) -> torch.Tensor:
        seen.add(tuple(windows.shape[2:]))
        return infer(windows, *options)

    segmenter.learner.infer = note  # type: ignore[method-assign]
    with segmenter.segment(volume) as result:
        assert result.labels.shape == (40, 20, 24)
    assert seen == {(16, 16, 16)}
    assert segmenter.settings.batches.patch == segmenter.windowing.patch == (16, 16, 16)
    assert segmenter.windowing.stride == (8, 16, 16)  # no gaps between smaller windows


def test_a_full_disk_is_an_error_that_says_so(
    project: Project, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_crln.errors import OutOfSpace

    def _full(*_: object) -> object:
        raise OutOfSpace("full", "it must fit", "Free some", project.path)

    segmenter = Segmenter(run.path)
    monkeypatch.setattr(segment, "space_for", _full)
    with pytest.raises(OutOfSpace), segmenter.segment(project.volume("a")):
        pass


def test_without_a_checkpoint_the_run_is_named(project: Project) -> None:
    folder = RunFolder.create(project.path, config.build(_VALUES))
    with pytest.raises(RunError, match="no last checkpoint"):
        Segmenter(folder.path)
    with pytest.raises(RunError, match="no best checkpoint"):
        Segmenter(folder.path, "best")
