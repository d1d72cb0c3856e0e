"""Every error is one line that says value, rule and remedy; survives a process boundary; has its exit code."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest

from napari_crln import errors
from napari_crln.errors import CrlnError

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, CrlnError)]
EXIT_CODES = {
    "CrlnError": 1,
    "UsageError": 2,
    "FilesExist": 2,
    "ConfigError": 2,
    "VolumeError": 3,
    "UnreadableFile": 3,
    "GridMismatch": 3,
    "InvalidIntensity": 3,
    "InvalidLabel": 3,
    "ProjectError": 4,
    "CorruptData": 4,
    "RunError": 5,
    "CorruptCheckpoint": 5,
    "TrainingDiverged": 6,
    "OutOfMemory": 7,
    "OutOfSpace": 8,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_message_is_one_line_with_where_value_rule_and_remedy_in_this_order(kind: type[CrlnError]) -> None:
    text = str(kind("voxel (1, 2, 3) is NaN", "voxels are finite", "Mask or replace it", Path("a/b.nii.gz")))
    assert text == f"{Path('a/b.nii.gz')}: voxel (1, 2, 3) is NaN; voxels are finite. Mask or replace it"
    assert "\n" not in text


@pytest.mark.parametrize("kind", CLASSES)
def test_line_breaks_in_what_was_found_do_not_break_the_line(kind: type[CrlnError]) -> None:
    text = str(kind("bad\nvalue", "a\r\nrule", "a\tremedy ", "na\nme"))
    assert text == "na me: bad value; a rule. a remedy"


def test_without_where_nothing_precedes_the_value() -> None:
    error = CrlnError("x = 3", "x is even", "Take 2")
    assert error.where is None
    assert str(error) == "x = 3; x is even. Take 2"


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("where", [None, "volume a", Path("p/q")])
def test_pickled_and_back_is_the_same_error(kind: type[CrlnError], where: str | Path | None) -> None:
    error = kind("value", "rule", "remedy", where)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert (str(again), again.args) == (str(error), error.args)


def test_exit_codes_are_those_documented_and_never_zero() -> None:
    """Scripts depend on them: a change here is a change of the command line."""
    assert {c.__name__: c.exit_code for c in CLASSES} == EXIT_CODES


def test_every_class_says_what_it_is_for() -> None:
    assert all(inspect.getdoc(c) for c in CLASSES)
