"""demo"""

from __future__ import annotations


def demo(headless: bool = False) -> None:
    """Train on phantoms."""
