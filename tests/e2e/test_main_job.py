"""The whole job by processes of their own: import, train, kill, resume, predict, evaluate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import napari_crln

ITERATIONS = 9
TINY = (
    f"--iterations={ITERATIONS}",
    "--set=network.base_filters=2",
    "--set=batches.patch=[16,16,16]",
    "--set=engine.log_every=1",
    "--set=engine.checkpoint_every=3",
    "--set=engine.threads=1",
    "--set=method.rectification.after=3",
)
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(napari_crln.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # of 30 s alone; machines are shared


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "napari_crln", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=200
    )


def document(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def train_and_kill(project: Path) -> int:
    """Train until the first checkpoint is announced, then kill -9; returns the checkpoint's step."""
    process = subprocess.Popen(
        command("train", project, *TINY, "--json"), env=ENVIRONMENT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["kind"] == "checkpointed":
            process.send_signal(signal.SIGKILL)
            process.stdout.close()
            process.wait()
            return int(event["step"])
    raise AssertionError("no checkpoint")


def test_import_train_kill_resume_predict_evaluate(decathlon: Path, tmp_path: Path) -> None:
    project = tmp_path / "organs.crln"
    counts = document("import", decathlon, project, "--labelled", 2)["volumes"]
    assert counts == {"labelled": 2, "unlabelled": 3, "validation": 0, "test": 2}

    saved = train_and_kill(project)
    assert 0 < saved < ITERATIONS
    resumed = run("resume", project, "--json")
    assert resumed.returncode == 0, resumed.stderr
    events = [json.loads(line) for line in resumed.stdout.splitlines()[1:]]
    assert events[0]["resumed"]
    assert saved <= events[0]["step"] < ITERATIONS
    assert (events[-1]["kind"], events[-1]["reason"], events[-1]["step"]) == ("ended", "finished", ITERATIONS)

    predicted = document("predict", project, "--role", "test", "--out", tmp_path / "predictions")
    assert predicted["step"] == ITERATIONS
    for case in ("case_5", "case_6"):
        written = nib.load(tmp_path / "predictions" / f"{case}.nii.gz")
        source = nib.load(decathlon / "imagesTs" / f"{case}.nii.gz")
        assert written.shape == source.shape
        np.testing.assert_array_equal(written.affine, source.affine)

    told = run("evaluate", project, "--role", "test")
    assert told.returncode == 0
    assert "no reference labels" in told.stdout
    scored = document("evaluate", "--predictions", decathlon / "labelsTr", "--labels", decathlon / "labelsTr")
    assert scored["evaluation"]["overall"]["statistics"]["dice"]["minimum"] == 1

    again = run("import", decathlon, project, "--labelled", 2)
    assert (again.returncode, again.stdout, again.stderr.count("\n")) == (4, "", 1)
    assert "Traceback" not in again.stderr


@pytest.mark.data
def test_the_hippocampus_folder(tmp_path: Path) -> None:
    here = Path(os.environ.get("CRLN_DATA", Path(__file__).parents[2] / "../shared/data"))
    folder = here / "hippocampus"
    if not folder.is_dir():
        pytest.skip("no real data; CRLN_DATA names their folder")
    project = tmp_path / "hip.crln"
    counts = document("import", folder, project, "--labelled", 8, "--validation", 40)["volumes"]
    assert (counts["labelled"], counts["validation"], counts["test"]) == (8, 40, 60)
    trained = run("train", project, "--preset", "hippocampus", "--iterations", 2, "--seed", 0, "--json")
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout.splitlines()[-1])["reason"] == "finished"
    name = Path(json.loads(trained.stdout.splitlines()[0])["path"]).name
    first = next(iter(json.loads(run("inspect", project, "--json").stdout)["volumes"]))["name"]
    assert document("predict", project, "--volume", first, "--out", tmp_path / "out")["run"] == name
    assert len(list((tmp_path / "out").iterdir())) == 1
