"""A sandbox a test, and one zygote for all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox import Sandbox, Zygote, import_project


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    if os.name != "posix":
        pytest.skip("processes are forked, signalled and killed: POSIX")
    zygote = Zygote(tmp_path_factory.mktemp("home"))
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def imported(decathlon: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of 2 labelled, 2 unlabelled, 1 validation and 2 test volumes; not to be changed."""
    path = tmp_path_factory.mktemp("imported") / "p.crln"
    import_project(decathlon, path)
    return path


@pytest.fixture
def sandbox(zygote: Zygote, imported: Path, tmp_path: Path) -> Sandbox:
    shutil.copytree(imported, tmp_path / "p.crln")
    return Sandbox(tmp_path, zygote)
