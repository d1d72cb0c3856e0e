"""Suggestions are read whole, or said to be damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_crln.errors import RunError
from napari_crln.events import SUGGESTIONS_FILE
from napari_crln.run.suggestions import read_suggestions, stamp
from napari_crln.suggestions import Suggestion, Suggestions, in_mm2

LIST = Suggestions(
    step=7,
    surveyed=2,
    volumes=3,
    items=(Suggestion(volume="a", axis=1, index=4, score=0.5, uncertainty=9.0, novelty=0.3, why="so"),),
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read_suggestions(tmp_path) is None
    assert stamp(tmp_path) is None
    (tmp_path / SUGGESTIONS_FILE).write_text(LIST.model_dump_json())
    assert read_suggestions(tmp_path) == LIST
    first = stamp(tmp_path)
    (tmp_path / "new").write_text(LIST.model_dump_json())
    (tmp_path / "new").replace(tmp_path / SUGGESTIONS_FILE)
    assert stamp(tmp_path) != first


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "unreadable"), ('{"step": 1}', "unreadable"), (LIST.model_dump_json().replace('"schema_version":1', '"schema_version":2'), "schema 2")],
)  # fmt: skip
def test_a_damaged_or_newer_list_is_an_error_that_names_the_file(
    tmp_path: Path, text: str, reason: str
) -> None:
    (tmp_path / SUGGESTIONS_FILE).write_text(text)
    with pytest.raises(RunError, match=rf"{SUGGESTIONS_FILE}: .*{reason}"):
        read_suggestions(tmp_path)


@pytest.mark.parametrize(
    ("area", "text"), [(1903.4, "1900 mm²"), (3.0, "3 mm²"), (0.0421, "0.0421 mm²"), (2.5e7, "25000000 mm²")]
)
def test_areas_are_written_for_people(area: float, text: str) -> None:
    assert in_mm2(area) == text
