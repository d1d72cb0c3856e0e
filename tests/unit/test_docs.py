"""Generated pages are up to date, links between pages lead somewhere, and the README's commands are real ones."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"])


def _program(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_of_the_configuration_is_up_to_date() -> None:
    reference = _program(ROOT / "docs" / "make_reference.py")
    assert reference.PAGE.read_text("utf-8") == reference.page(), "run python docs/make_reference.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_method_page_names_only_fields_that_exist() -> None:
    reference = (ROOT / "docs" / "reference" / "configuration.md").read_text("utf-8")
    method = (ROOT / "docs" / "concepts" / "method.md").read_text("utf-8")
    named = set(re.findall(r"`((?:method|network|optimiser|batches|predicting)\.[\w.]+)`", method))
    assert len(named) > 30
    for path in named:
        section, _, field = path.rpartition(".")
        table = reference.partition(f"## `[{section}]`")[2].partition("\n## ")[0]
        assert f"| `{field}` |" in table, path
