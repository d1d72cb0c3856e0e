"""Previews of a tiny run: right maps, the focused slab first, within the budget, and never felt by training."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_crln import config, events
from napari_crln.engine import preview as preview_module
from napari_crln.engine.budget import Budget
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import TrainingData
from napari_crln.engine.loop import Trainer
from napari_crln.engine.maps import Believer, belief_maps
from napari_crln.engine.predict import Windowing, predict_labels
from napari_crln.engine.preview import Previewer, modes_kept
from napari_crln.engine.state import TrainingState
from napari_crln.engine.validate import InferNetwork
from napari_crln.method.rectify import rectify
from napari_crln.previews import MEANINGS
from napari_crln.run.preview import Preview, PreviewReader
from napari_crln.run.watch import send
from napari_crln.types import IGNORE
from napari_crln.volume.intensity import Normalisation

PATCH = (16, 16, 16)
CPU = torch.device("cpu")
NAMES = ("background", "organ", "tumour")


class Clock:
    """Time that passes by 1 s whenever windows are looked at, and when a test says so."""

    def __init__(self) -> None:
        self.time = self.previewing = 0.0

    def __call__(self) -> float:
        return self.time

    def spend(self, seconds: float = 1.0) -> None:
        self.time += seconds
        self.previewing += seconds


def _settings(method: str = "crln", **engine: Any) -> config.RunConfig:
    return config.build(
        {
            "iterations": 4,
            "network": {"name": "vnet", "base_filters": 2},
            "batches": {"patch": PATCH, "labelled": 2, "unlabelled": 2},
            "method": {
                "name": method,
                "dim": {"prototypes": 3, "width": 4},
                "rectification": {"after": 0},
                "cps": {"anchors": 8, "negatives": 8},
            },
            "engine": {"log_every": 2, "device": "cpu", "precision": "fp32", **engine},
            "predicting": {"overlap": 0.25},
        }
    )


def _case(name: str, depth: int, labelled: bool = False) -> Case:
    rng = np.random.default_rng(len(name))
    image = rng.integers(0, 200, (depth, 20, 18), dtype=np.int16)
    target = rng.integers(IGNORE, 3, image.shape).astype(np.int16) if labelled else None
    normalisation = Normalisation(kind="none", low=0, high=200, shift=100, scale=0.01)
    return Case(name, image, normalisation, target, (2.0, 0.5, 0.5))


@pytest.fixture
def data() -> TrainingData:
    return TrainingData(NAMES, [_case("labelled", 16, True)], [_case("first", 40), _case("second one", 36)])


def _previewer(
    data: TrainingData, folder: Path, settings: config.RunConfig, clock: Clock | None = None
) -> Previewer:
    state = TrainingState.initial(settings, NAMES, CPU)
    with torch.no_grad():  # far enough from each other that teacher, clues and prediction disagree
        for parameter in state.learner.teacher.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    state.step = 1
    return Previewer(state, data, settings, folder, **({"clock": clock} if clock else {}))


def _until_idle(previewer: Previewer, limit: int = 200) -> list[events.Event]:
    """All that is made without another training step."""
    found: list[events.Event] = []
    for _ in range(limit):
        before = len(found)
        found += previewer.while_paused()
        if previewer._cycle is None and len(found) == before:
            return found
    raise AssertionError("never idle")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock by which only windows take time."""
    clock, call = Clock(), Believer.__call__

    def timed(self: Believer, windows: torch.Tensor) -> torch.Tensor:
        clock.spend()
        return call(self, windows)

    monkeypatch.setattr(Believer, "__call__", timed)
    return clock


def _read(folder: Path, generation: int) -> Preview:
    return PreviewReader(folder).read(generation)


def test_the_slab_about_the_slice_comes_first_then_the_volume(data: TrainingData, tmp_path: Path) -> None:
    made = _until_idle(_previewer(data, tmp_path, _settings()))
    slab, whole = made
    assert isinstance(slab, events.Previewed)
    assert isinstance(whole, events.Previewed)
    assert slab.volume == whole.volume == "first"  # of the unlabelled
    assert slab.region == ((12, 28), (0, 20), (0, 18))  # about plane 20, as thick as the patch
    assert whole.region == ((0, 40), (0, 20), (0, 18))
    record = _read(tmp_path, whole.generation).record
    assert record.is_whole
    assert record.spacing == (2.0, 0.5, 0.5)
    assert record.classes == NAMES
    assert (record.step, record.step_done) == (1, 1)
    assert list(record.maps) == whole.maps
    assert set(whole.maps) == set(MEANINGS)


def test_maps_of_one_window_are_what_the_teacher_says(tmp_path: Path) -> None:
    """Against the method's own functions, on a volume of exactly one window."""
    case = _case("x", 16)
    case = Case(case.name, case.image[:, :16, :16], case.normalisation)
    settings = _settings()
    previewer = _previewer(TrainingData(NAMES, [_case("labelled", 16, True)], [case]), tmp_path, settings)
    (event,) = _until_idle(previewer)
    assert isinstance(event, events.Previewed)
    preview = _read(tmp_path, event.generation)

    learner = previewer._state.learner
    learner.teacher.eval()
    x = torch.from_numpy(case.normalisation.apply(case.image))[None, None]
    x = (x - x.min()) / (x.max() - x.min())
    with torch.no_grad():
        output, clues = learner.teach(x)
        assert clues is not None
        rectified = rectify(
            output.logits_BCDHW, clues.map_BCDHW, learner.trust.mu, settings.method.rectification
        )
        final = learner.infer(x).argmax(1)
    before, after = output.logits_BCDHW.argmax(1)[0].numpy(), rectified.argmax(1)[0].numpy()
    assert np.array_equal(preview.read("pseudo_label"), before)
    assert np.array_equal(preview.read("rectified"), after)
    assert (before != after).any(), "the test shows nothing if rectification changes nothing"
    assert np.array_equal(preview.read("changed"), np.where(before != after, after + 1, 0))
    assert np.array_equal(preview.read("prediction"), final[0].numpy())
    uncertainty = 1 - rectified.softmax(1).max(1).values[0].numpy()
    similarity = torch.nn.functional.interpolate(clues.proximity.amax(2), size=PATCH, mode="trilinear")[
        0
    ].numpy()
    for name, true in (
        ("uncertainty", uncertainty),
        ("clues", clues.map_BCDHW[0].numpy()),
        ("similarity", similarity),
    ):
        half = 0.5 * preview.record.maps[name].scale
        assert np.abs(preview.values(name) - true).max() <= 1.01 * half
        assert true.std() > 4 * half
        assert preview.values(name).shape == true.shape


def test_maps_of_many_windows_are_blended_as_prediction_does(data: TrainingData, tmp_path: Path) -> None:
    settings = _settings()
    previewer = _previewer(data, tmp_path, settings)
    whole = _until_idle(previewer)[-1]
    assert isinstance(whole, events.Previewed)
    preview, case = _read(tmp_path, whole.generation), data.unlabelled[0]
    learner = previewer._state.learner
    predicted = predict_labels(
        InferNetwork(learner, settings),
        case.image,
        Windowing.of(settings),
        normalise=case.normalisation.apply,
    )
    assert np.array_equal(preview.read("prediction"), predicted)
    maps = belief_maps(learner, case.image, case.normalisation, settings, step=1)
    assert maps.clues is not None
    assert np.abs(preview.values("clues") - maps.clues).max() <= 0.51 * preview.record.maps["clues"].scale


@pytest.mark.parametrize("axis", [1, 2])
def test_slabs_lie_across_the_focused_axis(data: TrainingData, tmp_path: Path, axis: int) -> None:
    previewer = _previewer(data, tmp_path, _settings("mean-teacher"))
    list(previewer.obey(events.Focus(volume="second one", axis=axis, index=999, generation=4)))  # type: ignore[arg-type]
    slab, whole = _until_idle(previewer)
    assert isinstance(slab, events.Previewed)
    assert isinstance(whole, events.Previewed)
    size = data.unlabelled[1].image.shape
    assert slab.region is not None
    assert slab.region[axis] == (size[axis] - 16, size[axis])  # an index beyond the end is the last slice
    assert slab.region[0] == (0, 36)
    assert slab.focus == whole.focus == 4
    a, b = (_read(tmp_path, e.generation) for e in (slab, whole))
    assert a.read("prediction").shape == tuple(stop - start for start, stop in slab.region)
    agreement = (a.read("prediction") == b.read("prediction")[a.record.slices]).mean()
    assert agreement > 0.8, "the slab lies where its region says; only its windows differ"


@pytest.mark.parametrize("method", ["supervised", "mean-teacher", "ua-mt"])
def test_a_method_without_clues_has_three_maps(data: TrainingData, tmp_path: Path, method: str) -> None:
    made = _until_idle(_previewer(data, tmp_path, _settings(method)))
    assert isinstance(made[-1], events.Previewed)
    assert made[-1].maps == ["pseudo_label", "uncertainty", "prediction"]
    assert _read(tmp_path, made[-1].generation).maps == ("pseudo_label", "uncertainty", "prediction")


def test_similarity_to_one_prototype_is_that_prototypes_score(tmp_path: Path) -> None:
    """And it comes at once: what was under way with another choice is dropped."""
    case = _case("x", 16)
    case = Case(case.name, case.image[:, :16, :16], case.normalisation)
    data = TrainingData(NAMES, [_case("labelled", 16, True)], [case])
    previewer = _previewer(data, tmp_path, _settings())
    (largest,) = _until_idle(previewer)
    assert list(previewer.obey(events.PreviewSimilarity(prototype=2))) == []
    (second,) = _until_idle(previewer)
    assert isinstance(largest, events.Previewed)
    assert isinstance(second, events.Previewed)

    learner = previewer._state.learner
    learner.teacher.eval()
    x = torch.from_numpy(case.normalisation.apply(case.image))[None, None]
    _, clues = learner.teach((x - x.min()) / (x.max() - x.min()))
    assert clues is not None
    up = torch.nn.functional.interpolate(clues.proximity[:, :, 1], size=PATCH, mode="trilinear")
    preview = _read(tmp_path, second.generation)
    assert (preview.record.prototype, _read(tmp_path, largest.generation).record.prototype) == (2, 0)
    half = 0.5 * preview.record.maps["similarity"].scale
    assert np.abs(preview.values("similarity") - up[0].detach().numpy()).max() <= 1.01 * half


def test_a_prototype_that_is_not_there_is_a_warning(data: TrainingData, tmp_path: Path) -> None:
    previewer = _previewer(data, tmp_path, _settings())
    (warned,) = previewer.obey(events.PreviewSimilarity(prototype=4))
    assert isinstance(warned, events.Warned)
    assert "a class has 3" in warned.message
    (warned,) = _previewer(data, tmp_path, _settings("mean-teacher")).obey(
        events.PreviewSimilarity(prototype=1)
    )
    assert "a class has 0" in warned.message


def test_a_run_records_the_anchors_of_the_volume_that_is_looked_at(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "left_s", 1e9)  # previews after each step, however slow the machine
    monkeypatch.setattr("napari_crln.engine.preview._INTERVAL_S", 0.0)  # or fast
    settings = config.build(
        _settings(preview_share=0.5).model_dump(),
        {"iterations": 12, "method": {"cps": {"valid_confidence": 0}}},
    )
    records = []
    for event in Trainer(data, settings, tmp_path):
        if isinstance(event, events.Previewed):
            records.append(_read(tmp_path, event.generation).record)
    found = [record for record in records if record.anchors is not None and record.anchors.points]
    assert found
    for record in found:
        assert record.anchors is not None
        assert 1 <= record.anchors.step <= record.step_done
        points = np.array(record.anchors.points)
        assert (points >= 0).all()
        assert (points < np.array([len(NAMES), *record.shape])).all()


def test_before_rectification_starts_nothing_is_changed(data: TrainingData, tmp_path: Path) -> None:
    settings = config.build(_settings().model_dump(), {"method": {"rectification": {"after": 100}}})
    made = _until_idle(_previewer(data, tmp_path, settings))
    assert isinstance(made[-1], events.Previewed)
    preview = _read(tmp_path, made[-1].generation)
    assert not preview.read("changed").any()
    assert np.array_equal(preview.read("rectified"), preview.read("pseudo_label"))


def test_a_newer_focus_drops_the_unfinished_work(data: TrainingData, tmp_path: Path, clock: Clock) -> None:
    previewer = _previewer(data, tmp_path, _settings("mean-teacher"), clock)
    first: list[events.Event] = []
    while not first:
        first += previewer.while_paused()
    list(previewer.while_paused())  # well into the whole volume
    assert previewer._cycle is not None
    assert list(previewer.obey(events.Focus(volume="second one", index=3, generation=9))) == []
    rest = _until_idle(previewer)
    assert [e.volume for e in rest if isinstance(e, events.Previewed)] == ["second one", "second one"]
    assert [e.focus for e in rest if isinstance(e, events.Previewed)] == [9, 9]
    assert isinstance(rest[0], events.Previewed)
    assert rest[0].region == ((0, 16), (0, 20), (0, 18))
    assert len(PreviewReader(tmp_path).generations()) == 3
    assert not list((tmp_path / events.PREVIEW).glob(".tmp-*"))


def test_a_slice_within_the_slab_under_way_keeps_the_work(
    data: TrainingData, tmp_path: Path, clock: Clock
) -> None:
    """Else nothing would ever be finished while somebody scrolls."""
    previewer = _previewer(data, tmp_path, _settings("mean-teacher"), clock)
    list(previewer.while_paused())
    cycle = previewer._cycle
    assert cycle is not None
    list(previewer.obey(events.Focus(volume="first", index=24, generation=5)))
    assert previewer._cycle is cycle
    slab = _until_idle(previewer)[0]
    assert isinstance(slab, events.Previewed)
    assert slab.focus == 5
    assert _read(tmp_path, slab.generation).record.focus.index == 24
    list(previewer.obey(events.Focus(volume="first", index=39)))
    assert isinstance(_until_idle(previewer)[0], events.Previewed)


def test_an_unknown_volume_is_a_warning_and_the_focus_stays(data: TrainingData, tmp_path: Path) -> None:
    previewer = _previewer(data, tmp_path, _settings())
    (warned,) = previewer.obey(events.Focus(volume="test-7"))
    assert isinstance(warned, events.Warned)
    assert "'test-7'" in warned.message
    assert {e.volume for e in _until_idle(previewer) if isinstance(e, events.Previewed)} == {"first"}


def test_the_same_weights_are_not_shown_twice(data: TrainingData, tmp_path: Path, clock: Clock) -> None:
    previewer = _previewer(data, tmp_path, _settings("mean-teacher"), clock)
    assert len(_until_idle(previewer)) == 2
    clock.time += 1000
    assert _until_idle(previewer) == []
    previewer._state.step += 1
    assert len(_until_idle(previewer)) == 2


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_budget_holds_and_is_used(data: TrainingData, tmp_path: Path, clock: Clock, share: float) -> None:
    """300 training steps of 1 s by the clock; a batch of windows takes 1 s."""
    settings = _settings("mean-teacher", preview_share=share)
    previewer = _previewer(data, tmp_path, settings, clock)
    made = 0
    for step in range(1, 301):
        previewer._state.step = step
        clock.time += 1.0
        made += sum(isinstance(e, events.Previewed) for e in previewer.after_step(1.0))
        assert clock.previewing <= max(2.0, share * step) + 1.0
    assert clock.previewing >= 0.9 * share * 300
    assert made >= 3


def test_a_change_of_budget_takes_effect(data: TrainingData, tmp_path: Path, clock: Clock) -> None:
    previewer = _previewer(data, tmp_path, _settings("mean-teacher", preview_share=0.0), clock)

    def train(steps: int) -> None:
        for _ in range(steps):
            previewer._state.step += 1
            clock.time += 1.0
            list(previewer.after_step(1.0))

    train(100)
    list(previewer.while_paused())
    assert clock.previewing == 0
    list(previewer.obey(events.PreviewBudget(share=0.5)))
    train(60)
    assert 28 <= clock.previewing <= 31
    list(previewer.obey(events.PreviewBudget(share=0.0)))
    spent = clock.previewing
    train(60)
    assert clock.previewing == spent


def test_waiting_for_the_device_counts_as_training(data: TrainingData, tmp_path: Path, clock: Clock) -> None:
    settings = _settings("mean-teacher", preview_share=0.5)
    state = TrainingState.initial(settings, NAMES, CPU)
    previewer = Previewer(state, data, settings, tmp_path, clock=clock, settle=lambda: 100.0)
    state.step = 1
    list(previewer.after_step(1.0))
    assert previewer.budget.left_s > 40


def test_a_fault_is_told_once_and_previews_rest_then_go_on(
    data: TrainingData, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    previewer = _previewer(data, tmp_path, _settings("mean-teacher"), clock)

    def fail(*_: object) -> Any:
        clock.spend()
        raise RuntimeError("CUDA error: out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(preview_module, "maps_of", fail)
        made: list[events.Event] = []
        for _ in range(500):
            previewer._state.step += 1
            clock.time += 1.0
            made += previewer.after_step(1.0)
        (warned,) = made
        assert isinstance(warned, events.Warned)
        assert "out of memory" in warned.message
        assert clock.previewing <= 0.05 * 500 + 1
    assert not list((tmp_path / events.PREVIEW).glob(".tmp-*"))
    clock.time += 100
    assert any(isinstance(e, events.Previewed) for e in _until_idle(previewer))


def test_modes_are_set_back_module_by_module() -> None:
    net = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm3d(2))
    net.eval()
    net[0].train()
    with modes_kept(net):
        net.train()
    assert [m.training for m in net.modules()] == [False, True, False]


def _train(
    data: TrainingData, settings: config.RunConfig, folder: Path
) -> tuple[Trainer, list[events.Event]]:
    folder.mkdir()
    trainer = Trainer(data, settings, folder)
    return trainer, list(trainer)


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle after every step."""
    monkeypatch.setattr(preview_module, "_INTERVAL_S", 0.0)


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        ("crln", "train"),
        ("crln", "eval"),
        ("ua-mt", "eval"),
        ("supervised", "eval"),
    ],
)
@pytest.mark.usefixtures("no_rest")
def test_weights_are_bit_identical_with_and_without(
    data: TrainingData, tmp_path: Path, method: str, mode: str
) -> None:
    """Batch norm in the teacher's train mode included; previews spend half of the time."""
    extra = {"iterations": 3, "method": {"teacher": {"mode": mode}}}
    kept = []
    for share in (0.0, 0.5):
        settings = config.build(_settings(method, preview_share=share).model_dump(), extra)
        trainer, made = _train(data, settings, tmp_path / str(share))
        snapshot = trainer.state.snapshot()
        kept.append({f"{g}.{k}": v for g, group in snapshot.tensors.items() for k, v in group.items()})
        assert any(isinstance(e, events.Previewed) for e in made) == (share > 0)
        losses = [e.losses for e in made if isinstance(e, events.Stepped)]
        kept.append(losses)  # type: ignore[arg-type]
    assert kept[1] == kept[3]
    assert kept[0].keys() == kept[2].keys()
    assert all(torch.equal(kept[0][name], kept[2][name]) for name in kept[0])


def test_a_run_previews_by_default_and_heeds_the_inbox(data: TrainingData, tmp_path: Path) -> None:
    settings = _settings("mean-teacher")
    folder = tmp_path / "run"
    folder.mkdir()
    send(folder, events.Focus(volume="second one", index=0, generation=3))
    made = list(Trainer(data, settings, folder))
    seen = [e for e in made if isinstance(e, events.Previewed)]
    assert seen[0].volume == "second one"
    assert seen[0].focus == 3
    assert _read(folder, seen[0].generation).record.volume == "second one"


def test_history_is_what_the_configuration_says(data: TrainingData, tmp_path: Path) -> None:
    previewer = _previewer(data, tmp_path, _settings("mean-teacher", preview_history=2))
    for step, volume in enumerate(("first", "second one", "labelled"), start=1):
        previewer._state.step = step
        list(previewer.obey(events.Focus(volume=volume, index=0)))
        _until_idle(previewer)
    assert PreviewReader(tmp_path).generations() == [4, 5]


def test_while_paused_the_focus_is_followed(data: TrainingData, tmp_path: Path) -> None:
    """Weights rest, the eye does not."""
    folder = tmp_path / "run"
    folder.mkdir()
    run: Iterator[events.Event] = iter(Trainer(data, _settings("mean-teacher", preview_share=0.5), folder))
    next(run)
    send(folder, events.Pause())
    for event in run:
        if isinstance(event, events.Paused):
            break
    send(folder, events.Focus(volume="labelled", index=2, generation=8))
    answer = next(e for e in itertools.islice(run, 20) if isinstance(e, events.Previewed) and e.focus == 8)
    assert answer.volume == "labelled"
    send(folder, events.Stop())
    assert isinstance(list(run)[-1], events.Ended)


def test_a_full_disk_for_previews_does_not_end_training(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_crln.engine.generations import Draft
    from napari_crln.errors import OutOfSpace

    def full(*_: object) -> None:
        raise OutOfSpace("9 bytes are needed and 1 are free", "nothing is written", "Free some space", "x")

    monkeypatch.setattr(Draft, "append", full)
    _, made = _train(data, _settings("mean-teacher"), tmp_path / "run")
    warned = [e.message for e in made if isinstance(e, events.Warned)]
    assert len(warned) == 1
    assert "9 bytes are needed" in warned[0]
    assert isinstance(made[-1], events.Ended)
    assert made[-1].reason == "finished"
    assert made[-1].step == 4


def test_a_file_in_the_place_of_the_store_does_not_end_training(data: TrainingData, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / events.PREVIEW).write_text("not a folder")
    made = list(Trainer(data, _settings("mean-teacher"), folder))
    assert any(isinstance(e, events.Warned) for e in made)
    assert isinstance(made[-1], events.Ended)
    assert made[-1].reason == "finished"


def test_a_resumed_run_numbers_on(data: TrainingData, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _train(data, _settings("mean-teacher", checkpoint_every=2), folder)
    before = PreviewReader(folder).generations()
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    made = list(Trainer(data, _settings("mean-teacher", checkpoint_every=2), folder))
    assert next(e.generation for e in made if isinstance(e, events.Previewed)) == before[-1] + 1
