"""The simulated annotator on phantoms: rounds that pair, resume, and only ever show what was painted."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from napari_crln.cli import main
from napari_crln.types import IGNORE

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
NEVER = float("inf")
TINY = [
    "network.base_filters=2",
    "batches.patch=[16,16,16]",
    "method.dim.prototypes=2",
    "method.dim.width=4",
    "method.rectification.after=1",
    "predicting.overlap=0.0",
]


@pytest.fixture(scope="module")
def programs() -> Iterator[tuple[ModuleType, ModuleType]]:
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("annotator"), importlib.import_module("annotator_rounds")
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def project(decathlon: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("annotator") / "p.crln"
    assert main(["import", str(decathlon), str(path), "--labelled", "2", "--validation", "1", "--json"]) == 0
    return path


@pytest.fixture
def plan(programs: Any, project: Path, decathlon: Path, tmp_path: Path) -> Any:
    return programs[1].Plan(
        project=project, labels=decathlon / "labelsTr", preset="demo", set=TINY, work=tmp_path / "work",
        pool=4, held_out=1, start=2, add=2, rounds=3, first_iterations=2, iterations=1, axis=0, half=False,
    )  # fmt: skip


def test_rounds_add_slices_and_pair_over_arms(programs: Any, plan: Any) -> None:
    _, rounds = programs
    for arm in ("crln+suggestions", "crln+random", "supervised+random"):
        rounds.run_rounds(plan, arm, 0, NEVER)
    done = {
        arm: rounds.committed(plan, arm, 0)
        for arm in ("crln+suggestions", "crln+random", "supervised+random")
    }
    for found in done.values():
        assert [r["slices"] for r in found] == [2, 4, 6]
        assert [r["iterations"] for r in found] == [2, 3, 4]
        last = [tuple(p) for p in found[-1]["places"]]
        assert len(set(last)) == 6
        assert found[-1]["places"] == found[-2]["places"] + found[-2]["next"]
        assert 0 <= found[-1]["dice"] <= 1
    firsts = {json.dumps(found[0]["places"]) for found in done.values()}
    assert len(firsts) == 1, "all arms of a seed start with the same slices"
    assert done["crln+random"][0]["dice"] == done["crln+suggestions"][0]["dice"], "and with the same weights"
    assert done["crln+random"][2]["places"] == done["supervised+random"][2]["places"]


def test_an_interrupted_queue_goes_on_where_it_was_and_comes_to_the_same(
    programs: Any, plan: Any, tmp_path: Path
) -> None:
    _, rounds = programs
    whole = replace(plan, work=tmp_path / "whole" / "work")
    rounds.run_rounds(whole, "crln+suggestions", 1, NEVER)
    rounds.run_rounds(plan, "crln+suggestions", 1, time.time() - 1)
    assert rounds.committed(plan, "crln+suggestions", 1) == []
    commit, calls = rounds._commit, []

    def killed(*arguments: Any) -> None:
        """Trained and scored, and not committed: as by a kill in between."""
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        commit(*arguments)

    rounds._commit = killed
    try:
        with pytest.raises(KeyboardInterrupt):
            rounds.run_rounds(plan, "crln+suggestions", 1, NEVER)
    finally:
        rounds._commit = commit
    assert len(rounds.committed(plan, "crln+suggestions", 1)) == 1
    rounds.run_rounds(plan, "crln+suggestions", 1, NEVER)
    a, b = (rounds.committed(p, "crln+suggestions", 1) for p in (whole, plan))
    assert [(r["dice"], r["places"]) for r in a] == [(r["dice"], r["places"]) for r in b]


def test_only_painted_slices_are_shown_and_they_show_the_truth(
    programs: Any, plan: Any, tmp_path: Path
) -> None:
    bench = programs[1].Bench(plan, "crln", 0, tmp_path / "run")
    assert len(bench.pool) == 4, "the truth of unlabelled volumes comes from the folder"
    places = [(bench.pool[0].name, 0, 3), (bench.pool[0].name, 2, 5), (bench.pool[3].name, 0, 7)]
    labelled, unlabelled = bench.annotated(places)
    assert [c.name for c in labelled] == [bench.pool[0].name, bench.pool[3].name]
    assert all(c.target is None for c in unlabelled)
    shown, truth = labelled[0].target, bench.pool[0].target
    seen = np.zeros(shown.shape, bool)
    seen[3], seen[:, :, 5] = True, True
    assert (shown[~seen] == IGNORE).all()
    assert np.array_equal(shown[seen], truth[seen])
    assert set(np.unique(bench.pool[3].target)) == {0, 1, 2, 3}


def test_the_control_goes_on_with_begun_volumes(programs: Any, plan: Any, tmp_path: Path) -> None:
    bench = programs[1].Bench(plan, "crln", 0, tmp_path / "run")
    first = [(bench.pool[2].name, 0, 3), (bench.pool[3].name, 0, 7)]
    chosen = bench.choose("random-begun", None, first, 0)
    assert {name for name, _, _ in chosen} <= {name for name, _, _ in first}
    full = [(bench.pool[2].name, 0, index) for index in range(4)]
    others = {name for k in range(8) for name, _, _ in bench.choose("random-begun", None, full, k)}
    assert len(others) > 1, "a new one is begun"


def test_half_the_resolution(programs: Any, plan: Any, tmp_path: Path) -> None:
    full = programs[1].Bench(plan, "crln", 0, tmp_path / "a").pool[0]
    half = programs[1].Bench(replace(plan, half=True), "crln", 0, tmp_path / "b").pool[0]
    assert half.image.shape == half.target.shape == tuple(n // 2 for n in full.image.shape)
    assert half.spacing == tuple(2 * s for s in full.spacing)
    assert half.image.dtype == full.image.dtype
    assert abs(float(half.image.mean()) - float(full.image.mean())) < 1
    assert (half.target > 0).mean() == pytest.approx((full.target > 0).mean(), rel=0.3)


def test_rounds_of_another_plan_are_refused(programs: Any, plan: Any) -> None:
    plan.folder("crln+random", 0).mkdir(parents=True)
    programs[1]._commit(plan, "crln+random", 0, [{"dice": 0.5}])
    with pytest.raises(SystemExit, match="another plan"):
        programs[1].committed(replace(plan, add=3), "crln+random", 0)


@pytest.mark.parametrize(
    ("dice", "expected"),
    [([0.2, 0.4, 0.8], 15.0), ([0.7, 0.8, 0.9], 5.0), ([0.1, 0.2, 0.3], None), ([], None)],
)
def test_the_slices_that_a_curve_needs(programs: Any, dice: list[float], expected: float | None) -> None:
    assert programs[0].reached([5, 10, 20][: len(dice)], dice, 0.6) == expected


def test_the_plot_is_drawn_of_what_there_is(programs: Any, tmp_path: Path) -> None:
    curve = {"slices": [2, 4], "dice_mean": [0.1, 0.3], "dice_range": [[0.0, 0.2], [0.2, 0.4]]}
    empty: dict[str, Any] = {"slices": [], "dice_mean": [], "dice_range": []}
    programs[0].draw(tmp_path / "new" / "c.png", {"arms": {"a": curve, "b": empty}, "full_dice": 0.8})
    assert (tmp_path / "new" / "c.png").read_bytes().startswith(b"\x89PNG")
