"""Previews take no more than their share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_crln.engine.budget import Budget


@given(
    share=st.floats(0.001, 0.5),
    steps=st.lists(st.floats(0.01, 3.0), min_size=1, max_size=200),
    cost=st.floats(0.001, 2.0),
)
def test_spending_what_is_left_keeps_the_share(share: float, steps: list[float], cost: float) -> None:
    budget, spent = Budget(share, advance_s=1.0), 0.0
    for number, step in enumerate(steps):
        budget.earn(step)
        while budget.left_s >= cost:
            budget.spend(cost)
            spent += cost
        assert spent <= max(1.0, share * sum(steps[: number + 1])) + 1e-9


def test_the_advance_is_repaid() -> None:
    budget = Budget(0.05, advance_s=2.0)
    budget.spend(2.0)
    budget.earn(39.0)
    assert budget.left_s == pytest.approx(0.0)
    budget.earn(21.0)
    assert budget.left_s == pytest.approx(1.0)


def test_a_piece_that_took_longer_is_a_debt() -> None:
    budget = Budget(0.1, advance_s=1.0)
    budget.spend(5.0)
    budget.earn(40.0)
    assert budget.left_s == pytest.approx(-1.0)


def test_no_share_no_previews_and_a_new_share_counts_from_now_on() -> None:
    budget = Budget(0.0, advance_s=1.0)
    budget.earn(1000.0)
    assert budget.left_s == 0.0
    budget.share = 0.5
    budget.earn(10.0)
    assert budget.left_s == pytest.approx(5.0)


def test_an_advance_whose_purpose_is_fulfilled_is_not_spent_further() -> None:
    """The first picture took 0.5 s of the 2 s: the next comes after 10 s at 5 %, not after 40."""
    budget = Budget(0.05, advance_s=2.0)
    budget.spend(0.5)
    budget.end_advance()
    assert budget.left_s < 0
    budget.earn(9.9)
    assert budget.left_s < 0
    budget.earn(0.2)
    assert budget.left_s > 0
