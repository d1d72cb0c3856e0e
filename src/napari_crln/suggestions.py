"""The form of `suggestions.json`: the slices worth labelling next, as engine, shell and viewer know them.

One JSON document in the run folder, replaced whole each time. The first of `items` is the one to label first; each is
chosen given those before it, so that the list can be worked off from the top.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1

Axis = Literal[0, 1, 2]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Suggestion(_Record):
    """One slice; `score` sums up uncertainty × disagreement × novelty of itself and of the slices that it stands for."""

    volume: str
    axis: Axis = Field(description="the slice lies across it: 0, 1, 2 = D, H, W")
    index: int = Field(ge=0)
    score: float = Field(
        description="share of what no label reaches yet that it would reach, 0-1, given those before it"
    )
    uncertainty: float = Field(description="area that the teacher is not sure of, mm²: sum of 1 - p")
    disagreement: float | None = Field(
        default=None,
        description="how far rectification moves the probabilities there, 0-1; none: no rectification",
    )
    novelty: float = Field(
        description="distance to the nearest annotated or suggested slice in prototype space; 1: two slices at random"
    )
    stands_for: int = Field(
        default=1, ge=1, description="slices that it is nearer to than any annotated or suggested one"
    )
    why: str = ""


def in_mm2(area: float) -> str:
    """An area for a person: three digits, and no power of ten."""
    return f"{float(f'{area:.3g}'):.12g} mm²"


class Suggestions(_Record):
    """The slices worth labelling, best first."""

    schema_version: int = SCHEMA
    step: int = Field(description="optimiser steps done when they were ranked")
    time: float = Field(default=0.0, description="wall clock, s since 1970; for people only")
    surveyed: int = Field(description="volumes looked at so far")
    volumes: int = Field(description="volumes that may be trained on")
    note: str = Field(default="", description="what the ranking had to do without")
    items: tuple[Suggestion, ...] = ()
