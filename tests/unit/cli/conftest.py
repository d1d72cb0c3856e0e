"""The command line called in this process, and a project with one short run, made once."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import TINY, Answer, Call

from napari_crln.cli import main


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process."""

    def _call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return _call


@pytest.fixture
def redirected(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Run the command line in this process with both outputs redirected to files of an encoding."""

    def _call(encoding: str, *arguments: object) -> Answer:
        files = io.BytesIO(), io.BytesIO()
        with monkeypatch.context() as patched:
            streams = [io.TextIOWrapper(file, encoding, newline="\n") for file in files]
            patched.setattr(sys, "stdout", streams[0])
            patched.setattr(sys, "stderr", streams[1])
            code = main([str(argument) for argument in arguments])
            for stream in streams:
                stream.flush()
        return Answer(code, *(file.getvalue().decode(encoding) for file in files))

    return _call


@pytest.fixture(scope="session")
def trained_once(decathlon: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "p.crln"
    assert main(["import", str(decathlon), str(path), "--labelled", "2", "--validation", "1", "--json"]) == 0
    assert main(["train", str(path), "--iterations", "3", "--name", "first", *TINY, "--json"]) == 0
    return path


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A project of 2 labelled, 2 unlabelled, 1 validation and 2 test volumes with a finished run; a copy of one's own."""
    return Path(shutil.copytree(trained_once, tmp_path / "p.crln"))
