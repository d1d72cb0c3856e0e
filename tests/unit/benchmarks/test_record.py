"""A record says what repeats it, and nothing about whose machine it was."""

from __future__ import annotations

import getpass
import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[3] / "benchmarks" / "record.py"


@pytest.fixture(scope="module")
def program() -> Any:
    spec = importlib.util.spec_from_file_location("record", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_record_is_written_as_returned_and_holds_every_key(program: Any, tmp_path: Path) -> None:
    path = tmp_path / "new" / "r.json"
    entry = program.record(path, ["python", "x.py"], {"dice": [0.5, 0.25]}, seeds=[0, 1])
    assert json.loads(path.read_text("utf-8")) == entry
    assert entry["results"] == {"dice": [0.5, 0.25]}
    assert (entry["seeds"], entry["command"]) == ([0, 1], ["python", "x.py"])
    assert set(entry) == {"schema", "command", "seeds", "results", "date", "revision", "machine", "versions"}
    assert entry["machine"]["cores"] >= 1
    assert entry["versions"]["numpy"]
    assert list(path.parent.iterdir()) == [path]


def test_record_names_no_host_user_or_folder(program: Any, tmp_path: Path) -> None:
    program.record(tmp_path / "r.json", ["python"], {})
    machine = json.dumps(json.loads((tmp_path / "r.json").read_text("utf-8"))["machine"])
    for private in (socket.gethostname(), str(PROGRAM.parents[1]), str(Path.home())):
        assert private not in machine
    assert f'"{getpass.getuser()}"' not in machine


def test_nan_is_refused_and_leaves_the_old_record(program: Any, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    program.record(path, [], {"dice": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        program.record(path, [], {"dice": float("nan")})
    assert path.read_bytes() == before


def test_outside_git_there_is_no_revision(program: Any, tmp_path: Path) -> None:
    assert program.revision(tmp_path) is None
