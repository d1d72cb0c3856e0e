"""The queue of the study: what comes first, what follows from results, and what is never run twice."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from napari_crln import config

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("study")


def write(study: Any, out: Path, arm: str, seed: int, dice: float, seconds: float = 3600) -> None:
    job = study.Job("d", arm, seed)
    scored = {"overall": {"statistics": {"dice": {"mean": dice / 100}}}}
    path = out / job.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"results": {"validation": scored, "train_seconds": seconds}}))


def left(study: Any, out: Path, questions: list[Any]) -> list[tuple[str, int]]:
    return [(job.arm, job.seed) for job in study.candidates(out, questions)]


def test_one_seed_of_everything_comes_first_then_the_best_arms_beside_the_reference(
    study: Any, tmp_path: Path
) -> None:
    questions = [
        study.Question("one", "d", "crln", ["crln+a=1", "crln+b=1"]),
        study.Question("two", "d", "crln", ["crln+c=1"]),
    ]
    every = ["crln", "crln+a=1", "crln+b=1", "crln+c=1"]
    assert left(study, tmp_path, questions) == [(arm, 0) for arm in every]
    for arm, dice in zip(every, (80.0, 80.5, 70.0, 82.0), strict=True):
        write(study, tmp_path, arm, 0, dice)
    assert left(study, tmp_path, questions) == [
        ("crln", 1), ("crln+c=1", 1), ("crln", 2), ("crln+c=1", 2), ("crln+a=1", 1), ("crln+a=1", 2),
    ]  # fmt: skip
    write(study, tmp_path, "crln", 1, 81.0)
    assert ("crln", 1) not in left(study, tmp_path, questions)
    assert study.spent_hours(tmp_path) == 5


def test_questions_with_seeds_get_all_of_them(study: Any, tmp_path: Path) -> None:
    question = study.Question("q", "d", "crln", ["supervised"], [0, 1])
    assert left(study, tmp_path, [question]) == [
        ("crln", 0),
        ("supervised", 0),
        ("crln", 1),
        ("supervised", 1),
    ]


def test_further_seeds_are_those_of_the_question_s_own_reference(study: Any, tmp_path: Path) -> None:
    questions = [
        study.Question("one", "d", "mean-teacher", ["x"]),
        study.Question("two", "d", "crln", ["y"]),
    ]
    for arm, dice in {"mean-teacher": 80, "crln": 80, "x": 83, "y": 82}.items():
        write(study, tmp_path, arm, 0, dice)
    assert left(study, tmp_path, questions) == [
        ("mean-teacher", 1), ("x", 1), ("mean-teacher", 2), ("x", 2), ("crln", 1), ("y", 1), ("crln", 2), ("y", 2),
    ]  # fmt: skip


def test_differences_are_paired_by_seed(study: Any, tmp_path: Path) -> None:
    for arm, seed, dice in (("crln", 0, 80), ("crln", 2, 84), ("x", 0, 81), ("x", 1, 99), ("x", 2, 83)):
        write(study, tmp_path, arm, seed, dice)
    row = study.summarise(tmp_path, study.Question("q", "d", "crln", ["x", "y"]))["arms"]
    assert row["x"]["differences"] == pytest.approx([1.0, -1.0])
    assert row["x"]["median_difference"] == pytest.approx(0.0)
    assert row["y"]["median_difference"] is None


def test_every_arm_of_the_shipped_study_is_a_configuration_and_no_two_are_the_same(study: Any) -> None:
    arms = importlib.import_module("arms")
    plan = tomllib.loads((BENCHMARKS / "study.toml").read_text("utf-8"))
    seen: dict[tuple[str, str], config.RunConfig] = {}
    for question in (study.Question(**q) for q in plan["question"]):
        data = plan["data"][question.data]
        for arm in {question.reference, *question.arms}:
            seen[question.data, arm] = arms.settings_of(data["preset"], arm, 0, data["set"])
    for (data, arm), made in seen.items():
        others = [b for (d, b), other in seen.items() if d == data and b != arm and other == made]
        assert not others, f"{arm} and {others} are the same on {data}"
    files = {study.Job(data, arm, 0).file for data, arm in seen}
    assert len(files) == len(seen)


@pytest.mark.slow
def test_a_run_is_scored_and_leaves_its_result_alone(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = importlib.import_module("test_la2018") if "test_la2018" in sys.modules else None
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    helpers = helpers or importlib.import_module("test_la2018")
    helpers.make_pack(tmp_path / "p", training=9)
    data = {
        "preset": "hippocampus",
        "labels": 2,
        "validation": [4, 6],
        "set": ["iterations=2", *helpers.TINY],
    }
    text = (
        f'[data.d]\npreset = "hippocampus"\nlabels = 2\nvalidation = [4, 6]\nset = {json.dumps(data["set"])}\n'
        '[[question]]\nname = "q"\ndata = "d"\nreference = "crln"\narms = ["supervised"]\n'
    )
    (tmp_path / "study.toml").write_text(text)
    options = Namespace(study=tmp_path / "study.toml", pack={"d": tmp_path / "p"}, out=tmp_path / "out")
    study.run_one(options, study.Job("d", "crln", 0))
    (path,) = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    results = json.loads(path.read_text())["results"]
    assert results["validation"]["overall"]["cases"] == 2
    assert "validation_without_clues" in results
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_commands_are_written_down_without_this_machines_folders(study: Any) -> None:
    said = [
        "benchmarks/study.py",
        "/a/b.toml",
        "--pack",
        "la-half=/some/where/la.pack",
        "--jobs",
        "2",
        '{"arm": "x/y"}',
    ]
    assert study.arms.public(said) == [
        "benchmarks/study.py", "b.toml", "--pack", "la-half=la.pack", "--jobs", "2", '{"arm": "x/y"}',
    ]  # fmt: skip
