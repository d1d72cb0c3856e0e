"""A disk that is full, a small tmpfs: one line with what is needed and free, the last good checkpoint kept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox import Sandbox, final

from napari_crln import events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load
FULL = re.compile(
    r"napari-crln: \S*: (more than )?(\d+) bytes are needed and (\d+) are free; .*Free some space.*"
)


class SmallDisk:
    """A tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)

    def mount(self, megabytes: float) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs", str(self.path)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small tmpfs is refused: it takes root")

    def fill(self, leave: int) -> None:
        """Take all but so many bytes, with one file."""
        taken = shutil.disk_usage(self.path).free - leave
        with (self.path / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, taken)

    def free(self) -> None:
        (self.path / "filler").unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], capture_output=True, check=False)


@pytest.fixture
def disk(sandbox: Sandbox) -> Iterator[SmallDisk]:
    """A disk of 24 MB, that the project lies on."""
    disk = SmallDisk(sandbox.root / "disk")
    disk.mount(24)
    try:
        shutil.move(sandbox.project, disk.path / "p.crln")
        sandbox.project.symlink_to(disk.path / "p.crln")
        yield disk
    finally:
        disk.unmount()


def test_a_disk_that_fills_ends_the_run_in_one_line_and_resume_goes_on_when_there_is_room(
    sandbox: Sandbox, disk: SmallDisk
) -> None:
    process = sandbox.train("--iterations", 6000, "--set=engine.checkpoint_every=20")
    sandbox.watch(process, lambda event: isinstance(event, events.Checkpointed))
    disk.fill(leave=64 * 1024)
    ended = process.wait()
    assert ended.code == 8, ended.err
    found = FULL.fullmatch(ended.last_words)
    assert found, ended.last_words
    assert int(found[2]) > int(found[3])
    assert "Traceback" not in ended.err
    kept = final(sandbox.run).step
    assert kept % 20 == 0
    assert kept > 0
    assert sandbox.run.status().reason == "failed"
    assert "bytes are needed" in sandbox.run.status().message

    disk.free()
    ended = sandbox.resume("--iterations", kept + 1).wait()
    assert ended.code == 0, ended.err
    started = [event for event in sandbox.events() if isinstance(event, events.Started)][-1]
    assert (started.step, started.resumed) == (kept, True)
    assert final(sandbox.run).step == kept + 1
    sandbox.check()


def test_a_disk_too_full_for_an_event_keeps_the_log_whole(sandbox: Sandbox, disk: SmallDisk) -> None:
    """No line is torn, and the run says why it ended where it still can: on stderr."""
    process = sandbox.train("--iterations", 60000, "--set=engine.checkpoint_every=50000")
    sandbox.watch(process, lambda event: event.step >= 2)
    disk.fill(leave=0)
    ended = process.wait()
    assert ended.code == 8, ended.err
    assert FULL.fullmatch(ended.last_words), ended.last_words
    assert sandbox.run.events.read_bytes().endswith(b"\n")
    disk.free()
    ended = sandbox.resume("--iterations", 2).wait()
    assert ended.code == 0, ended.err
    sandbox.check()


def test_a_prediction_that_does_not_fit_is_said_in_one_line_and_changes_nothing(
    sandbox: Sandbox, disk: SmallDisk
) -> None:
    assert sandbox.train("--iterations", 2).wait().code == 0
    predict = ("predict", sandbox.project, "--volume=case_5")
    disk.fill(leave=4096)
    ended = sandbox.start(*predict).wait()
    assert ended.code == 8, ended.err
    found = FULL.fullmatch(ended.last_words)
    assert found, ended.last_words
    assert "Traceback" not in ended.err
    labels = sandbox.project / "volumes" / "case_5.zarr" / "labels" / "prediction"
    assert not labels.exists()
    disk.free()
    sandbox.check()
    assert sandbox.start(*predict).wait().code == 0
    assert labels.exists()
    sandbox.check()


def test_no_room_for_previews_is_a_warning_and_training_goes_on(sandbox: Sandbox, tmp_path: Path) -> None:
    """Only the previews' folder is on a small disk."""
    process = sandbox.train("--iterations", 60000, "--set=engine.preview_share=0.3")
    sandbox.watch(process, lambda event: isinstance(event, events.Previewed))
    process.kill()
    previews = sandbox.run.path / events.PREVIEW
    shutil.rmtree(previews)
    small = SmallDisk(previews)
    small.mount(0.06)
    try:
        process = sandbox.resume("--iterations", 30)
        told = sandbox.watch(
            process, lambda event: isinstance(event, events.Warned) and "preview" in event.message
        )
        assert isinstance(told, events.Warned)
        assert re.search(r"bytes are needed and \d+ are free", told.message)
        ended = process.wait()
        assert ended.code == 0, ended.err
        assert sandbox.run.status().reason == "finished"
    finally:
        small.unmount()
    previews.rmdir()  # what the disk lay on
    sandbox.check()
