from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from napari_crln import config
from napari_crln.cli import main, training
from napari_crln.config import RunConfig
from napari_crln.errors import ConfigError
from napari_crln.gui import training_form
from napari_crln.gui.training_form import (
    AUTOMATIC,
    TrainingForm,
    command_line,
    form_for,
    preset_names,
    run_config,
)
from napari_crln.run.folder import RunFolder, runs
from napari_crln.volume.project import Project
from napari_crln.volume.sample import SHAPE, make_sample_project

ROLES = ("labelled", "unlabelled", "test")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample project, with fewer volumes; it names the preset `demo`."""
    return make_sample_project(tmp_path_factory.mktemp("sample") / "phantoms of mine.crln", SHAPE, ROLES)


def of_panel(form: TrainingForm, project: Path) -> RunConfig:
    volumes = Project.open(project).volumes.values()
    return run_config(form, [v.grid.shape for v in volumes if v.role in ("labelled", "unlabelled")])


def of_shell(form: TrainingForm, project: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Configuration of the run that the copied command makes; it is not trained."""
    followed: list[RunFolder] = []
    monkeypatch.setattr(training, "_follow", lambda run, as_json: followed.append(run))
    program, *arguments = shlex.split(command_line(form, project))
    assert program == "napari-crln"
    assert main(arguments) == 0
    assert [run.path for run in followed] == [runs(project)[-1].path]
    return followed[0].config()


@pytest.mark.parametrize(
    "form",
    [
        TrainingForm(),
        TrainingForm("demo", iterations=115),
        TrainingForm("hippocampus", "mean-teacher", 300, "cpu"),
        TrainingForm(AUTOMATIC, "bcp", 400, "cpu", "seed=3; batches.labelled=1"),
        TrainingForm(AUTOMATIC, settings="engine.log_every=7 iterations=60"),
        TrainingForm(AUTOMATIC, settings="engine.device=cpu network.base_filters=4"),
    ],
    ids=lambda form: f"{form.preset}, {form.settings}",
)
@pytest.mark.parametrize("guessed", ["cpu", "cuda"])
def test_the_copied_command_makes_the_panels_configuration(
    form: TrainingForm, guessed: str, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Field by field, on a project that names a preset: also where the panel's choice is *automatic*."""
    monkeypatch.setattr(training_form, "guess_device", lambda: guessed)
    monkeypatch.setattr("napari_crln.engine.device.choose_device", lambda wanted: _Device(wanted, guessed))
    panel, shell = of_panel(form, sample), of_shell(form, sample, monkeypatch)
    assert config.differences(panel, shell) == []


class _Device:
    """A device of torch's, as far as `configure` asks."""

    def __init__(self, wanted: str, guessed: str) -> None:
        self.type = guessed if wanted == "auto" else wanted


def test_where_somebody_watches_a_cpu_every_step_is_told(sample: Path) -> None:
    assert of_panel(TrainingForm("demo", device="cpu"), sample).engine.log_every == 1
    own = TrainingForm(device="cpu", settings="engine.log_every=7")
    assert of_panel(own, sample).engine.log_every == 7


def test_settings_decide_what_automatic_plans_for(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device and the length that train, not those that stand in the fields above."""
    monkeypatch.setattr(training_form, "guess_device", lambda: "cuda")
    made = of_panel(TrainingForm(settings="engine.device=cpu; iterations=40"), sample)
    assert (made.network.base_filters, made.method.rectification.after) == (8, 10)


def test_a_setting_that_is_wrong_is_named() -> None:
    form = TrainingForm(settings="batches.labeled=1")
    with pytest.raises(ConfigError, match="labeled"):
        run_config(form, [SHAPE])
    with pytest.raises(ConfigError, match=r"batches\.labeled.*Choose one of.* labelled"):
        command_line(form, Path("p.crln"))


@pytest.mark.parametrize(
    "settings", ["seed", "sed=3", "seed=three", "batches.labelled=0", "engine.device.x=1"]
)
def test_messages_on_settings_are_for_who_has_only_the_panel(settings: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_config(TrainingForm(settings=settings), [SHAPE])
    assert "--set" not in str(caught.value)
    assert "docs/" not in str(caught.value)


def test_automatic_is_no_preset_that_ships_and_may_be_chosen() -> None:
    assert preset_names() == [AUTOMATIC, *config.presets()]
    assert AUTOMATIC not in config.presets()
    form = replace(TrainingForm(), preset="demo")
    assert form_for(None, form) == form
    assert form_for(AUTOMATIC, form).preset == AUTOMATIC
