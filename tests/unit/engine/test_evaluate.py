from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medpy.metric import binary

from napari_crln.engine import plots, tables
from napari_crln.engine.evaluate import Case, Evaluation, evaluate, loads
from napari_crln.engine.plots import plot_cases
from napari_crln.errors import GridMismatch, InvalidLabel, UnreadableFile
from napari_crln.types import IGNORE

NAMES = ["background", "anterior", "posterior"]
SPACING = (2.0, 1.0, 0.5)


def _boxes(*starts: int, side: int = 4) -> Any:
    """Class k + 1 is a cube at D = starts[k], or absent where that is negative."""
    volume = np.zeros((16, 12, 12), np.int16)
    for index, start in enumerate(starts, start=1):
        if start >= 0:
            volume[start : start + side, 2 * index : 2 * index + side, 3:7] = index
    return volume


def _case(name: str, prediction: Any, truth: Any) -> Case:
    return Case(name, prediction.astype(np.uint8), truth, SPACING)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(
        [
            _case("good", _boxes(1, 8), _boxes(1, 8)),
            _case("shifted", _boxes(2, 9), _boxes(1, 8)),
            _case("missed", _boxes(1, -1), _boxes(1, 8)),
            _case("invented", _boxes(1, 8), _boxes(1, -1)),
            _case("rightly empty", _boxes(1, -1), _boxes(1, -1)),
            _case("unseen", _boxes(3, -1), None),
        ],
        NAMES,
    )


def test_scores_are_those_of_the_class_and_the_spacing(evaluation: Evaluation) -> None:
    prediction, truth = _boxes(2, 9) == 1, _boxes(1, 8) == 1
    scores = evaluation.cases[1].classes["anterior"]
    assert scores.dice == pytest.approx(binary.dc(prediction, truth))
    assert scores.jaccard == pytest.approx(binary.jc(prediction, truth))
    for name in ("hd95", "asd", "assd"):
        measure = getattr(binary, name)
        assert getattr(scores, name) == pytest.approx(measure(prediction, truth))
        assert getattr(scores, f"{name}_mm") == pytest.approx(
            measure(prediction, truth, voxelspacing=SPACING)
        )
    assert scores.truth_ml == pytest.approx(64 / 1000)


def test_a_missed_class_is_counted_and_has_no_distance(evaluation: Evaluation) -> None:
    scores = evaluation.cases[2].classes["posterior"]
    assert (scores.dice, scores.hd95, scores.hd95_mm) == (0, None, None)
    assert evaluation.per_class["posterior"].empty_predictions == 1
    assert evaluation.per_class["posterior"].statistics["hd95"].count == 2


def test_an_absent_class_counts_against_dice_only_where_it_was_invented(evaluation: Evaluation) -> None:
    assert evaluation.cases[3].classes["posterior"].dice == 0
    assert evaluation.cases[4].classes["posterior"].dice is None
    assert evaluation.per_class["posterior"].empty_truths == 2
    assert evaluation.per_class["posterior"].statistics["dice"].count == 4


def test_statistics_are_over_cases_with_a_truth(evaluation: Evaluation) -> None:
    values = [1, evaluation.cases[1].classes["posterior"].dice, 0, 0]
    found = evaluation.per_class["posterior"].statistics["dice"]
    assert (found.mean, found.median) == (pytest.approx(np.mean(values)), pytest.approx(np.median(values)))
    assert (found.minimum, found.maximum) == (0, 1)
    assert found.deviation == pytest.approx(np.std(values))
    assert evaluation.per_class["posterior"].cases == evaluation.overall.cases == 5


def test_overall_is_the_mean_over_a_cases_classes_then_over_cases(evaluation: Evaluation) -> None:
    shifted = evaluation.cases[1].classes["anterior"].dice
    found = evaluation.overall.statistics["dice"]
    assert found.mean == pytest.approx(np.mean([1, shifted, 0.5, 0.5, 1]))
    assert evaluation.overall.empty_predictions == 1
    assert evaluation.overall.empty_truths == 2


def test_a_case_without_truth_is_listed_with_its_volumes(evaluation: Evaluation) -> None:
    assert evaluation.without_truth == ["unseen"]
    scores = evaluation.cases[-1].classes["anterior"]
    assert scores.prediction_ml == pytest.approx(64 / 1000)
    assert scores.dice is scores.truth_ml is scores.hd95_mm is None
    assert not scores.truth_empty


def test_voxels_without_a_truth_change_no_score() -> None:
    prediction, truth = _boxes(2, 9), _boxes(1, 8)
    truth[:, :, 5:] = IGNORE
    before = evaluate([_case("a", prediction, truth)], NAMES)
    changed = prediction.copy()
    changed[:, :, 5:] = np.random.default_rng(0).integers(0, 3, changed[:, :, 5:].shape)
    assert evaluate([_case("a", changed, truth)], NAMES) == before
    changed[:, :, 4] = 0
    assert evaluate([_case("a", changed, truth)], NAMES) != before


def _ball(centre: int) -> Any:
    return (
        sum(
            (axis - middle) ** 2
            for axis, middle in zip(np.ogrid[:40, :40, :48], (20, 20, centre), strict=True)
        )
        < 14**2
    )


@pytest.fixture(scope="module")
def half_looked_at() -> Evaluation:
    """Balls of radius 14, shifted by 6; in the second case only slice 20 of the truth is annotated."""
    truth = _ball(20).astype(np.int16)
    sparse = np.full_like(truth, IGNORE)
    sparse[20] = truth[20]
    return evaluate([_case("dense", _ball(26), truth), _case("sparse", _ball(26), sparse)], NAMES[:2])


def test_a_sparse_truth_has_overlap_and_no_distance(half_looked_at: Evaluation) -> None:
    """Cut to a lone slice, both balls would be all border: a mean distance of 0.78 instead of 2.85."""
    dense, sparse = (case.classes["anterior"] for case in half_looked_at.cases)
    prediction, truth = _ball(26), _ball(20)
    assert dense.asd == pytest.approx(binary.asd(prediction, truth))
    assert dense.asd == pytest.approx(2.85, abs=0.01)
    assert sparse.dice == pytest.approx(binary.dc(prediction[20], truth[20]))
    assert sparse.jaccard == pytest.approx(binary.jc(prediction[20], truth[20]))
    distances = (sparse.hd95, sparse.asd, sparse.assd, sparse.hd95_mm, sparse.asd_mm, sparse.assd_mm)
    assert distances == (None,) * 6


def test_why_there_is_no_distance_is_in_json_tables_and_picture(
    half_looked_at: Evaluation,
) -> None:
    assert [case.sparse_truth for case in half_looked_at.cases] == [False, True]
    assert half_looked_at.overall.sparse_truths == half_looked_at.per_class["anterior"].sparse_truths == 1
    assert half_looked_at.overall.statistics["hd95"].count == 1
    assert half_looked_at.overall.statistics["dice"].count == 2
    document = json.loads(half_looked_at.model_dump_json())
    assert document["cases"][1]["sparse_truth"] is True
    header, dense, sparse = tables.case_rows(half_looked_at)
    assert (dict(zip(header, dense, strict=True))["coverage"], sparse[header.index("95HD vx")]) == (
        "dense",
        "–",
    )
    assert dict(zip(header, sparse, strict=True))["coverage"] == "sparse"
    assert "2 cases, 1 of them with a sparse truth: no distance" in plots._heading(half_looked_at, 2, "run 3")


def test_cases_are_taken_one_at_a_time() -> None:
    import weakref

    alive: list[weakref.ref[Any]] = []

    def stream() -> Any:
        for index in range(5):
            prediction = _boxes(1, 8).astype(np.uint8)
            alive.append(weakref.ref(prediction))
            assert sum(ref() is not None for ref in alive) <= 2
            yield Case(str(index), prediction, _boxes(1, 8), SPACING)
            del prediction

    assert len(evaluate(stream(), NAMES).cases) == 5


def test_json_round_trip(evaluation: Evaluation) -> None:
    text = evaluation.model_dump_json()
    assert loads(text, "evaluation.json") == evaluation
    assert json.loads(text)["cases"][2]["classes"]["posterior"]["hd95"] is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"cases": 3}'])
def test_other_json_is_refused_by_name(text: str) -> None:
    with pytest.raises(UnreadableFile, match=r"^scores\.json: .*an evaluation is JSON"):
        loads(text, "scores.json")


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(GridMismatch, match=r"^heart_3: .*\(16, 12, 12\).*\(15, 12, 12\)"):
        evaluate([_case("heart_3", _boxes(1, 8), _boxes(1, 8)[1:])], NAMES)


@pytest.mark.parametrize("what", ["prediction", "truth"])
def test_an_unknown_class_is_refused(what: str) -> None:
    arrays = {"prediction": _boxes(1, 8), "truth": _boxes(1, 8)}
    arrays[what][0, 0, 0] = 3
    with pytest.raises(InvalidLabel, match=f"^heart_3: {what} holds class index 3"):
        evaluate([_case("heart_3", **arrays)], NAMES)


def test_nothing_to_score_is_no_error() -> None:
    nothing = evaluate([], NAMES)
    assert nothing.overall.statistics == {}
    assert tables.long_rows(nothing)[-1][1:5] == ["ASSD mm", "–", "–", "–"]


def test_tables_are_rectangular_and_hold_the_scores(evaluation: Evaluation) -> None:
    rows = tables.case_rows(evaluation)
    assert len({len(row) for row in rows}) == 1
    by_name = {(row[0], row[1]): dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    assert len(by_name) == 12
    assert by_name["good", "anterior"]["Dice %"] == "100.0"
    assert by_name["missed", "posterior"]["95HD mm"] == "–"
    assert by_name["unseen", "anterior"]["truth ml"] == "–"
    assert by_name["unseen", "anterior"]["predicted ml"] == "0.06"
    summary = tables.long_rows(evaluation)
    assert len({len(row) for row in summary}) == 1
    assert [row[0] for row in summary if row[0]] == ["class", "anterior", "posterior", "all"]
    assert summary[1] == ["anterior", "Dice %", "100.0", "75.0–100.0", "95.0 ± 10.0", "5", "0"]


def test_plot_marks_every_score(evaluation: Evaluation, tmp_path: Path) -> None:
    """Each class's colour is in the picture, and a long list makes a taller one."""
    from matplotlib.image import imread

    plot_cases(evaluation, tmp_path / "few.png", colours={"anterior": "#ff00ff", "posterior": "#00ff00"})
    few = imread(tmp_path / "few.png")[..., :3]
    for colour in ((1, 0, 1), (0, 1, 0)):
        assert (np.abs(few - colour).sum(-1) < 0.4).sum() > 100
    longer = evaluation.model_copy(update={"cases": evaluation.cases * 20})
    plot_cases(longer, tmp_path / "many.png")
    assert imread(tmp_path / "many.png").shape[0] > 2 * few.shape[0]


def test_plot_of_nothing_is_still_a_picture(tmp_path: Path) -> None:
    plot_cases(evaluate([_case("unseen", _boxes(1, 2), None)], NAMES), tmp_path / "none.png", title="run 3")
    assert (tmp_path / "none.png").stat().st_size > 1000
