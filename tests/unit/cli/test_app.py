from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from command_line import Call

import napari_crln
from napari_crln.cli import app, inspecting, main
from napari_crln.cli.options import RoleName
from napari_crln.errors import CrlnError, OutOfSpace
from napari_crln.types import Role


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"napari-crln {napari_crln.__version__}\n", "")


def test_help_lists_the_commands(call: Call) -> None:
    answer = call("--help")
    assert answer.code == 0
    for command in (
        "init",
        "import",
        "train",
        "resume",
        "watch",
        "predict",
        "accept",
        "role",
        "export",
        "evaluate",
        "inspect",
        "demo",
    ):
        assert f"  {command} " in answer.out


def test_help_of_every_command_loads_nothing_heavy() -> None:
    code = (
        "import sys; from napari_crln.cli import main\n"
        "for c in 'init import train resume watch predict accept role export evaluate inspect demo'.split(): assert main([c, '-h']) == 0\n"
        "heavy = {'torch', 'zarr', 'scipy', 'matplotlib', 'nibabel', 'numpy', 'napari'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    source = str(Path(napari_crln.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_a_mendable_error_is_one_line_with_its_exit_code(call: Call, tmp_path: Path) -> None:
    answer = call("train", tmp_path / "none.crln")
    assert (answer.code, answer.out) == (4, "")
    assert answer.err.startswith("napari-crln: ")
    assert answer.err.count("\n") == 1
    assert "none.crln" in answer.err


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(place: int, call: Call, tmp_path: Path) -> None:
    arguments: list[object] = ["train", tmp_path / "none.crln"]
    arguments.insert(place, "--debug")
    answer = call(*arguments)
    assert answer.code == 4
    assert "Traceback" in answer.err


def test_a_fault_of_ours_is_one_line_with_advice(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def _break(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(inspecting, "_inspect_file", _break)
    (tmp_path / "x.nii").write_bytes(b"")
    answer = call("inspect", tmp_path / "x.nii")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "RuntimeError: two lines" in answer.err
    assert "--debug" in answer.err


def test_exit_code_is_the_error_classes_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def _full(*_: object) -> None:
        raise OutOfSpace("a", "b", "c")

    monkeypatch.setattr(inspecting, "_inspect_file", _full)
    (tmp_path / "x.nii").write_bytes(b"")
    assert main(["inspect", str(tmp_path / "x.nii")]) == OutOfSpace.exit_code != CrlnError.exit_code


def test_an_unknown_option_is_a_usage_error(call: Call) -> None:
    assert call("predict", "p", "--nonsense").code == 2


def test_roles_are_those_of_the_types_card() -> None:
    assert get_args(RoleName) == get_args(Role)
    assert app.app.info.name == "napari-crln"
