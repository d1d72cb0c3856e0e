"""What earlier versions wrote loads for ever: golden projects (tests/golden) opened, inspected, predicted and gone on with."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from sandbox import Sandbox, Zygote, final

from napari_crln import events
from napari_crln.engine import checkpoint
from napari_crln.run.folder import runs
from napari_crln.volume.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load
GOLDEN = Path(__file__).parents[1] / "golden"
#: Digests of each volume's image and targets, as written.
VOLUMES = {
    "case_0": ("labelled", "9b836ae7d640b1ce", "0385afff2b5d22d7"),
    "case_1": ("labelled", "f7698c0c4fcc3436", "2f61ff6d572609e7"),
    "case_2": ("unlabelled", "6bcd55e091dfe662", None),
    "case_3": ("validation", "d74ce6fd45353a37", "d8faf93259b082ff"),
}
#: Number and digest of the tensors of each group, in order of their names.
TENSORS = {
    "student": (78, "01f2c65fdf1f83ac"),
    "teacher": (78, "c74d9ef3f69994d6"),
    "trust": (1, "4e0c1733a0731709"),
    "optimiser": (78, "0db1059ee4e51029"),
}


def _digest(*parts: bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:16]


@pytest.fixture
def golden(zygote: Zygote, tmp_path: Path) -> Sandbox:
    """The project of schema 1, in a sandbox."""
    with tarfile.open(GOLDEN / "schema-1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "schema-1.crln").rename(tmp_path / "p.crln")
    return Sandbox(tmp_path, zygote)


def test_all_golden_archives_are_small() -> None:
    sizes = [path.stat().st_size for path in GOLDEN.glob("*.tar.xz")]
    assert sizes
    assert sum(sizes) <= 200_000


def test_a_project_of_schema_1_reads_as_it_was_written(golden: Sandbox) -> None:
    project = Project.open(golden.project)
    assert project.classes.names == ("background", "body", "lobe", "vessel")
    assert set(project.volumes) == set(VOLUMES)
    for name, (role, image, targets) in VOLUMES.items():
        volume = project.volumes[name]
        assert volume.role == role
        assert volume.grid.shape == (16, 24, 20)
        assert volume.grid.spacing == (1.5, 1.0, 1.0)
        assert _digest(volume.read_image().tobytes()) == image
        if targets is not None:
            assert _digest(np.ascontiguousarray(volume.read_targets()).tobytes()) == targets
    golden.check()


def test_a_checkpoint_of_schema_1_is_upgraded_and_bit_exact(golden: Sandbox) -> None:
    path = golden.run.checkpoints / "step-00000003"
    assert json.loads((path / "manifest.json").read_text("utf-8"))["schema_version"] == 1
    loaded = checkpoint.load(path)
    assert (loaded.step, set(loaded.tensors)) == (3, set(TENSORS))
    for group, (count, digest) in TENSORS.items():
        tensors = loaded.tensors[group]
        assert len(tensors) == count
        assert _digest(*(tensors[name].numpy().tobytes() for name in sorted(tensors))) == digest
    assert loaded.state["class_names"] == ["background", "body", "lobe", "vessel"]
    assert loaded.state["config"] is loaded.state["made_with"] is loaded.state["fitted"] is None


def test_every_schema_up_to_now_has_a_named_upgrade() -> None:
    assert sorted(checkpoint.UPGRADES) == list(range(1, checkpoint.SCHEMA))
    for schema, upgrade in checkpoint.UPGRADES.items():
        assert upgrade.__name__.startswith(f"from_{schema}_")


def test_a_run_of_schema_1_is_inspected_predicted_with_and_gone_on_with(golden: Sandbox) -> None:
    (run,) = runs(golden.project)
    assert run.status().state == "finished"
    said = golden.inspect()
    assert (said["step"], said["iterations"], said["method"]) == (3, 3, "crln")
    assert len(said["losses"]) == 5

    predicted = golden.start("predict", golden.project, "--volume", "case_3", "--json").wait()
    assert predicted.code == 0, predicted.err
    labels = Project.open(golden.project).volumes["case_3"].read_prediction()
    assert labels.shape == (16, 24, 20)
    assert 0 <= labels.min() <= labels.max() <= 3

    ended = golden.resume("--iterations", 5).wait()
    assert ended.code == 0, ended.err
    started = [e for e in golden.events() if isinstance(e, events.Started)][-1]
    assert (started.step, started.resumed, started.differences) == (3, True, ())
    assert final(run).step == 5
    golden.check()
