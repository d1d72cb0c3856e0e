from __future__ import annotations

import json
import os
import shutil
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


FOREIGN = "Łódź-患者-😀"


@pytest.mark.parametrize("encoding", ["cp1252", "cp932", "ascii", "utf-8"])
def test_any_name_goes_into_a_redirect_of_any_encoding(
    encoding: str, redirected: Call, trained: Path, tmp_path: Path
) -> None:
    """Windows redirects in the ANSI code page."""
    project = Path(shutil.move(trained, tmp_path / FOREIGN / "p.crln"))
    predicted = redirected(encoding, "predict", project, "--role", "test")
    assert (predicted.code, predicted.err) == (0, "")
    assert "written to" in predicted.out
    shown = redirected(encoding, "inspect", project)
    assert (shown.code, shown.err) == (0, "")
    assert "case_0" in shown.out
    assert (FOREIGN if encoding == "utf-8" else "\\u60a3" if encoding != "cp932" else "患者") in shown.out
    refused = redirected(encoding, "inspect", project.parent / "none")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_json_stays_json_in_any_encoding(
    encoding: str, redirected: Call, trained: Path, tmp_path: Path
) -> None:
    """Python's own escapes, \\xe9 and \\U0001f600, are none of JSON's; and programs read it as UTF-8."""
    project = Path(shutil.move(trained, tmp_path / FOREIGN / "p.crln"))
    answer = redirected(encoding, "inspect", project, "--json")
    assert json.loads(answer.out)["project"] == str(project)
    assert answer.out.isascii() == (encoding != "utf-8")
    watched = redirected(encoding, "watch", project, "--json")
    assert all(json.loads(line)["kind"] for line in watched.out.splitlines())
    told = redirected(encoding, "predict", project, "--role", "test", "--json", "--progress")
    assert [json.loads(line)["kind"] for line in told.err.splitlines()]
    assert json.loads(told.out)["project"] == str(project)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_at_all_is_printed(redirected: Call, tmp_path: Path) -> None:
    project = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.crln"))
    assert redirected("utf-8", "init", project, "--class", "a").code == 0
    assert json.loads(redirected("utf-8", "inspect", project, "--json").out)["project"] == str(project)
