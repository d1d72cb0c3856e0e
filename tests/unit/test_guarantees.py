"""Every test that docs/reference/guarantees.md names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "guarantees.md"


def test_every_test_that_a_promise_names_exists() -> None:
    promised = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text("utf-8"))
    assert len(promised) > 20
    for file, name in promised:
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
            f"{file}::{name}"
        )


def test_every_promise_names_a_test() -> None:
    rows = [
        line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ") and "---" not in line
    ]
    unproven = [row for row in rows if "::" not in row and not row.startswith("| promise |")]
    assert unproven == []
