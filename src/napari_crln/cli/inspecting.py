"""inspect"""

from __future__ import annotations

from pathlib import Path


def inspect(path: Path) -> None:
    """Say what a project, run or file holds."""
