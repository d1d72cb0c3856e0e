"""The left-atrium benchmark on a tiny pack: limited calls, kills, and a machine with little installed."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_crln.engine.cohort import Case
from napari_crln.types import IGNORE
from napari_crln.volume.intensity import measure

ROOT = Path(__file__).resolve().parents[3]
BENCHMARKS = ROOT / "benchmarks"
#: What a bare machine may lack.
ABSENT = ("zarr", "nibabel", "tomlkit", "tensorstore", "numcodecs", "dask", "typer", "rich", "matplotlib")


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def module(name: str) -> Any:
    return importlib.import_module(name)


def make_case(number: int, shape: tuple[int, int, int] = (20, 22, 26), test: bool = False) -> Case:
    rng = np.random.default_rng(number)
    target = np.zeros(shape, np.int16)
    target[6:14, 6:16, 8:18] = 1
    image = (rng.normal(60, 10, shape) + 80 * target).clip(0, 255).astype(np.uint8)
    return Case(
        f"la_{number:03d}", image, measure(image, "zscore"), None if test else target, (0.5, 0.6, 0.7)
    )


def make_pack(folder: Path, training: int = 20, tests: int = 2) -> Any:
    pack = module("pack")
    cases = [pack.Packed("labelled", make_case(k)) for k in range(training)]
    cases += [pack.Packed("test", make_case(100 + k, test=True)) for k in range(tests)]
    made = pack.Pack(("background", "left atrium"), cases)
    pack.write_pack(folder, made)
    return made


def test_a_pack_gives_back_what_was_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("pack"), "MOST", 20_000)
    made = make_pack(tmp_path / "p", 3, 1)
    sparse = make_case(7)
    assert isinstance(sparse.target, np.ndarray)
    sparse.target[3:] = IGNORE
    made.cases.append(module("pack").Packed("labelled", sparse))
    module("pack").write_pack(tmp_path / "q", made)
    files = list((tmp_path / "q").glob("part-*.bin"))
    assert len(files) > 1
    assert max(f.stat().st_size for f in files) <= 20_000
    back = module("pack").read_pack(tmp_path / "q")
    assert back.class_names == made.class_names
    for (role, case), (role_back, again) in zip(made.cases, back.cases, strict=True):
        assert (role, case.name, case.spacing, case.normalisation) == (
            role_back,
            again.name,
            again.spacing,
            again.normalisation,
        )
        np.testing.assert_array_equal(case.image, again.image)
        assert case.image.dtype == again.image.dtype
        if case.target is None:
            assert again.target is None
        else:
            np.testing.assert_array_equal(case.target, again.target)


def test_a_damaged_pack_is_refused(tmp_path: Path) -> None:
    make_pack(tmp_path / "p", 2, 0)
    part = tmp_path / "p" / "part-000.bin"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(ValueError, match="not what was packed"):
        module("pack").read_pack(tmp_path / "p")


def test_half_resolution_is_a_mean_and_a_majority() -> None:
    pack = module("pack")
    image = np.arange(5 * 4 * 6, dtype=np.uint8).reshape(5, 4, 6)
    target = np.zeros((5, 4, 6), np.int16)
    target[0:2, 0:2, 0:2] = 1
    target[0:2, 0:2, 2:4] = 1
    target[0, 0, 2:4] = target[1, 0, 2:4] = IGNORE
    case = Case("c", image, measure(image, "zscore"), target, (1.0, 2.0, 3.0))
    ((_, half),) = pack.halved(pack.Pack(("a", "b"), [pack.Packed("labelled", case)])).cases
    assert half.image.shape == (2, 2, 3)
    assert half.image[1, 1, 2] == np.rint(image[2:4, 2:4, 4:6].mean())
    assert half.target[0, 0].tolist() == [1, IGNORE, 0]  # a tie of four and four goes to the lower
    assert half.spacing == (2.0, 4.0, 6.0)


@pytest.mark.parametrize("most", [7, 100, 10_000])
def test_a_split_folder_joins_to_the_same(tmp_path: Path, most: int) -> None:
    parts, rng = module("parts"), np.random.default_rng(0)
    files = {
        "a/b/large.bin": rng.bytes(150),
        "empty": b"",
        "a/exact": rng.bytes(100),
        "x.000.txt": b"12345678",
    }
    for name, data in files.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(data)
    for _ in range(2):  # the second replaces the first
        parts.split_folder(tmp_path / "source", tmp_path / "split", most)
    held = [p for p in (tmp_path / "split").rglob("*") if p.is_file()]
    assert max(p.stat().st_size for p in held) <= max(most, 0)
    assert parts.join_folder(tmp_path / "split", tmp_path / "joined")
    joined = {
        p.relative_to(tmp_path / "joined").as_posix(): p.read_bytes()
        for p in (tmp_path / "joined").rglob("*")
        if p.is_file()
    }
    assert joined == files
    assert not parts.join_folder(tmp_path / "nothing", tmp_path / "other")


TINY = [
    "network.base_filters=2", "batches.patch=[16, 16, 16]", "method.dim.prototypes=2", "method.dim.width=4",
    "method.cps.anchors=8", "method.cps.negatives=16", "predicting.overlap=0.0", "optimiser.learning_rate=0.05",
    "predicting.stride=none",
]  # fmt: skip


COMMON = [
    "--arms",
    "crln",
    "--seeds",
    "0",
    "--labels",
    "3",
    "--iterations",
    "21",
    "--checkpoint-every",
    "1000",
]


def command(*arguments: str) -> list[str]:
    sets = [part for value in TINY for part in ("--set", value)]
    return ["run", "p", "--state", "state", "--device", "cpu", *sets, *COMMON, *arguments]


def call_on_a_bare_machine(folder: Path, *arguments: str) -> str:
    """One call where there is torch, NumPy, SciPy, safetensors and pydantic, and none of the rest."""
    code = (
        f"import sys; sys.modules.update({{n: None for n in {ABSENT}}}); sys.path.insert(0, {str(BENCHMARKS)!r});"
        "import la2018; la2018.main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *command(*arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_calls_of_limited_time_come_to_what_one_call_comes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["la2018.py", *command(*arguments)])
        module("la2018").main()
        return capsys.readouterr().out

    make_pack(tmp_path / "p")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "state" / "tune-3-crln-seed0"
    assert f"left to do: {run.name}" in call("--budget", "0")
    assert list((run / "run").rglob("student.safetensors"))
    shutil.rmtree(tmp_path / "state.work")  # as on a fresh machine: only the state was carried
    assert "nothing is left to do" in call_on_a_bare_machine(tmp_path)
    result = json.loads((run / "result.json").read_text())["results"]
    assert result["validation"]["overall"]["cases"] == 16
    assert (result["labels"], result["unlabelled"]) == (3, 1)
    assert len(list((run / "predictions").glob("*.npz"))) == 18
    (tmp_path / "state").rename(tmp_path / "limited")
    assert "nothing is left to do" in call()
    whole = json.loads((run / "result.json").read_text())["results"]
    for kind in ("validation", "validation_without_clues"):
        assert whole[kind] == result[kind]
    for kind in ("predictions", "predictions-without-clues"):
        for file in (run / kind).glob("*.npz"):
            with np.load(file) as one, np.load(tmp_path / "limited" / run.name / kind / file.name) as other:
                np.testing.assert_array_equal(one["labels"], other["labels"])


@pytest.fixture
def job(tmp_path: Path) -> Any:
    options = type("Options", (), {})()
    vars(options).update(state=tmp_path / "state", work=None, half=False, fold="tune", labels=8)
    return module("la2018").Job(options, "crln", 0)


def checkpoint(run: Path, step: int) -> None:
    (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (run / "checkpoints" / f"step-{step:08d}" / "weights").write_bytes(b"x" * 50)
    (run / "events.jsonl").write_text(f"{step}\n")


@pytest.mark.parametrize(
    ("kept", "here", "goes_on_from"), [(5000, 1000, 5000), (1000, 5000, 5000), (-1, 1000, 1000)]
)
def test_a_state_that_is_further_on_wins_over_what_lies_in_the_place_of_work(
    job: Any, tmp_path: Path, kept: int, here: int, goes_on_from: int
) -> None:
    work = tmp_path / "state.work" / job.name
    checkpoint(work, here)
    (work / "lock.json").write_text('{"pid": 1, "host": "another container"}')
    if kept > 0:
        checkpoint(tmp_path / "elsewhere", kept)
        module("la2018")._keep(tmp_path / "elsewhere", job.folder / "run")
        assert not (tmp_path / ".elsewhere.essence").exists(), "nothing of the copying is left"
    run = job._resumed()
    assert [p.name for p in (run / "checkpoints").iterdir()] == [f"step-{goes_on_from:08d}"]
    assert not (run / "lock.json").exists()


def test_the_summary_is_of_all_that_is_done(job: Any, tmp_path: Path) -> None:
    la2018 = module("la2018")
    for arm, labels, dice in (("crln", 8, 0.9), ("bcp", 8, 0.8), ("crln", 4, 0.5)):
        folder = tmp_path / "state" / f"tune-{labels}-{arm}-seed0"
        folder.mkdir(parents=True)
        scored = {"overall": {"statistics": {"dice": {"mean": dice, "count": 1}}}}
        entry = {"arm": arm, "seed": 0, "validation": scored}
        (folder / "result.json").write_text(json.dumps({"results": entry}))
    la2018._summarise(job.options)
    found = json.loads((tmp_path / "state" / "summary-tune-8.json").read_text())["results"]
    assert {arm: each["validation"]["dice"]["median"] for arm, each in found.items()} == {
        "crln": 0.9,
        "bcp": 0.8,
    }


def test_roles_of_the_folds(tmp_path: Path) -> None:
    la2018 = module("la2018")
    pack = make_pack(tmp_path / "p", 30, 2)
    options = type("Options", (), {"labels": 4, "fold": "tune", "half": False})()
    names = lambda cases: [c.name for c in cases]  # noqa: E731
    every = names(pack.of_role("labelled"))
    data, tests = la2018.Job(options, "crln", 0).data(pack)
    assert names(data.labelled) == every[:4]
    assert names(data.unlabelled) == every[4:14]
    assert names(data.validation) == every[14:]
    assert all(c.target is None for c in [*data.unlabelled, *tests])
    options.fold = "final"
    data, _ = la2018.Job(options, "crln", 0).data(pack)
    assert (names(data.labelled), names(data.unlabelled), data.validation) == (every[:4], every[4:], [])
    for arm in ("supervised-all", "supervised-all+optimiser.warmup=100"):
        data, _ = la2018.Job(options, arm, 0).data(pack)
        assert (names(data.labelled), data.unlabelled) == (every, [])


@pytest.mark.parametrize("arm", ["supervised", "mean-teacher", "clues", "rectified", "crln", "bcp"])
def test_each_rung_is_what_it_says(arm: str) -> None:
    method = module("arms").settings_of("la2018", arm, 1, ["iterations=400"]).method
    switches = (method.uses_clues, method.uses_rectification, method.uses_cps)
    expected = {"clues": (True, False, False), "rectified": (True, True, False), "crln": (True, True, True)}
    assert switches == expected.get(arm, (False, False, False))
    assert (method.rectification.after, method.bcp.pretrain) == (100, 100)


@pytest.mark.parametrize("arm", ["mean-teacher", "crln"])
def test_both_ways_of_predicting_in_one_pass_are_those_of_two(arm: str) -> None:
    import torch

    from napari_crln.engine.state import build_learner

    arms = module("arms")
    small = ["network.base_filters=2", "batches.patch=[16, 16, 16]", "method.rectification.mu_initial=0.3"]
    settings = arms.settings_of("la2018", arm, 1, [*small, "engine.device=cpu", "predicting.stride=none"])
    learner, case = build_learner(settings, 2, torch.device("cpu")), make_case(3)
    found = arms.predict_ways(learner, settings, case)
    assert set(found) == ({True, False} if arm == "crln" else {True})
    for clues, labels in found.items():
        np.testing.assert_array_equal(labels, arms.predict(learner, settings, case, clues))
    if arm == "crln":
        assert (found[True] != found[False]).any()
