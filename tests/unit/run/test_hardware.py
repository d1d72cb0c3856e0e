from __future__ import annotations

import sys
from pathlib import Path

import pytest

from napari_crln.run import hardware
from napari_crln.run.hardware import guess_device


@pytest.fixture
def torch_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch on the path before the installed one, on Windows with an NVIDIA driver; returns its version.py."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(hardware, "which", lambda name: f"C:/Windows/System32/{name}.exe")
    monkeypatch.setattr(hardware.metadata, "version", lambda name: "2.10.0")
    return tmp_path / "torch" / "version.py"


@pytest.mark.parametrize(
    ("line", "device"),
    [
        ("cuda: Optional[str] = None", "cpu"),  # PyPI's wheel for Windows, whose version says nothing
        ("cuda = None", "cpu"),
        ("cuda: Optional[str] = '12.8'", "cuda"),
        ("cuda = '12.8'", "cuda"),
        ("cuda_like = None", "cuda"),  # no such line: the version is asked
    ],
)
def test_what_torch_was_built_for_is_read_and_not_imported(line: str, device: str, torch_with: Path) -> None:
    torch_with.write_text(f"__version__ = '2.10.0'\ndebug = False\n{line}\nhip: Optional[str] = None\n")
    assert guess_device() == device


def test_without_its_own_word_the_version_is_asked(torch_with: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert guess_device() == "cuda"
    monkeypatch.setattr(hardware.metadata, "version", lambda name: "2.10.0+cpu")
    assert guess_device() == "cpu"


def test_without_torch_there_is_the_cpu(torch_with: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    assert guess_device() == "cpu"


def test_the_installed_torch_says_what_it_was_built_for() -> None:
    torch = pytest.importorskip("torch")
    assert hardware._torch_is_for_cpus() == (torch.version.cuda is None)
