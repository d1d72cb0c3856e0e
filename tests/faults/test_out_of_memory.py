"""Too little memory, of a device or of the machine: said with what would fit, or gone on with that."""

from __future__ import annotations

import json
import re

import pytest
from sandbox import Sandbox, final

from napari_crln import events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load
PATCH = 16**3
#: A step of 2 + 2 patches of 32³, 32 × the voxels of one of 16³.
LARGE = ("--iterations", 3, "--set=batches.patch=[32,32,32]")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_is_said_in_one_line_what_would_fit(sandbox: Sandbox, device: str) -> None:
    """An allocator that gives out above a quarter of the voxels: 1 + 1 patches of half the size."""
    broken = "memory_ends_at", {"voxels": 8 * PATCH, "device": device, "from": 1}
    ended = sandbox.train(*LARGE, broken=broken).wait()
    assert ended.code == 7, ended.err
    assert "2 + 2 patches of 32 × 32 × 32 voxels does not fit" in ended.last_words
    assert "1 + 1 patches of 16 × 32 × 32 voxels would fit" in ended.last_words
    assert "Traceback" not in ended.err
    last = sandbox.events()[-1]
    assert isinstance(last, events.Ended)
    assert (last.reason, last.step) == ("failed", 1)
    assert final(sandbox.run).step == 1
    options = re.findall(r"--set (batches\S+)", ended.last_words)

    taken = sandbox.train(*LARGE, *(f"--set={o}" for o in options), broken=broken).wait()
    assert taken.code == 0, taken.err
    resumed = sandbox.resume("--run", sandbox.run.name, "--iterations", 4).wait()
    assert resumed.code == 0, resumed.err
    sandbox.check()


def test_if_asked_it_goes_on_with_half_and_says_so(sandbox: Sandbox) -> None:
    broken = "memory_ends_at", {"voxels": 16 * PATCH, "device": "cuda", "from": 1}
    halve = "--set=engine.on_out_of_memory=halve"
    ended = sandbox.train(*LARGE, halve, broken=broken).wait()
    assert ended.code == 0, ended.err
    (warned,) = [e for e in sandbox.events() if isinstance(e, events.Warned)]
    assert warned.step == 1
    assert "on with 1 + 1 patches of 32 × 32 × 32 voxels" in warned.message
    assert final(sandbox.run).step == 3
    fitted = json.loads((sandbox.run.checkpoints / "step-00000003" / "state.json").read_text("utf-8"))[
        "fitted"
    ]
    assert fitted == {"patch": [32, 32, 32], "labelled": 1, "unlabelled": 1}

    resumed = sandbox.resume("--iterations", 4, broken=broken).wait()
    assert resumed.code == 0, resumed.err
    assert len([e for e in sandbox.events() if isinstance(e, events.Warned) and "fit" in e.message]) == 1
    sandbox.check()


def test_where_nothing_fits_it_is_said(sandbox: Sandbox) -> None:
    broken = "memory_ends_at", {"voxels": 100, "device": "cuda"}
    ended = sandbox.train(*LARGE, "--set=engine.on_out_of_memory=halve", broken=broken).wait()
    assert ended.code == 7, ended.err
    assert "No smaller step fits" in ended.last_words
    sandbox.check()


def test_a_real_limit_of_the_machine_is_met_in_one_line(sandbox: Sandbox) -> None:
    """Under RLIMIT_AS, with a patch that takes hundreds of megabytes: no guess, no allocator of ours."""
    huge = ("--iterations", 1, "--set=batches.patch=[64,64,64]", "--set=network.base_filters=4")
    ended = sandbox.train(*huge, broken=("address_space", {"bytes": 300 << 20})).wait()
    assert ended.code == 7, ended.err
    found = re.search(
        r"2 \+ 2 patches of 64 × 64 × 64 voxels does not fit.*\d \+ \d patches of .* would fit",
        ended.last_words,
    )
    assert found, ended.last_words
    sandbox.check()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_prediction_that_does_not_fit_says_what_would(sandbox: Sandbox, device: str) -> None:
    assert sandbox.train("--iterations", 2).wait().code == 0
    predict = ("predict", sandbox.project, "--volume=case_5")
    broken = "prediction_exhausts", {"windows": 1, "device": device}
    ended = sandbox.start(*predict, broken=broken).wait()
    assert ended.code == 7, ended.err
    assert "2 windows of 16 × 16 × 16 at once" in ended.last_words
    assert "Set predicting.batch to 1" in ended.last_words
    sandbox.check()
    path = sandbox.run.path / events.CONFIG_FILE
    text = path.read_text("utf-8")
    assert text.count("\nbatch = 2") == 1
    path.write_text(text.replace("\nbatch = 2", "\nbatch = 1"), "utf-8")
    assert sandbox.start(*predict, broken=broken).wait().code == 0
    sandbox.check()
