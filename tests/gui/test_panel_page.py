"""The reference page of the panel says what the panel's own tooltips say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gui

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date(panel: Any) -> None:
    script = runpy.run_path(str(DOCS / "make_panel_reference.py"))
    assert script["PAGE"].read_text("utf-8") == script["page"](panel), "run docs/make_panel_reference.py"
