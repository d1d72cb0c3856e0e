"""The feed: partial maps over whole ones, late replies dropped, the last generation always drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from panel_fakes import Later

from napari_crln.gui import preview_feed
from napari_crln.gui.preview_feed import Frame, MapPicture, PreviewFeed, Wanted, _restored
from napari_crln.gui.throttle import Throttle
from napari_crln.previews import Quantisation


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def in_parts(feed: PreviewFeed, count: int, takes: Callable[[], None] = lambda: None) -> list[int]:
    """Make a feed draw frames of so many parts; returns the parts as they are drawn."""
    drawn: list[int] = []

    def show(_frame: Frame) -> Iterator[None]:
        for number in range(count):
            takes()
            drawn.append(number)
            yield

    feed._show = show
    return drawn


def wanted(*generations: int, volume: str = "a", class_index: int = 1) -> Wanted:
    return Wanted(Path("run"), volume, generations, frozenset({"prediction"}), class_index)


def answer(question: Wanted, _before: Frame | None) -> Frame:
    stored = np.zeros((2, 2, 2), np.uint8)
    maps = {key: MapPicture(stored, Quantisation()) for key in question.keys}
    return Frame(question.volume, question.generations[0], 0, (2, 2, 2), maps)


def make(monkeypatch, cost: float = 0.0) -> tuple[PreviewFeed, Later, list[tuple[str, int]], Clock]:
    monkeypatch.setattr(preview_feed, "read_frame", answer)
    clock, background, drawn = Clock(), Later(), []

    def draw(frame: Frame) -> Iterator[None]:
        clock.now += cost
        drawn.append((frame.volume, frame.generation))
        yield from ()

    return PreviewFeed(background, draw, lambda error: None, Throttle(0.1, clock)), background, drawn, clock


def test_one_read_at_a_time_and_the_newest_is_what_is_read_next(monkeypatch) -> None:
    feed, background, drawn, clock = make(monkeypatch)
    for newest in (1, 2, 3):
        feed.want(wanted(newest))
        feed.tick()
    assert len(background.waiting) == 1
    background.answer()
    feed.tick()
    clock.now += 1
    feed.tick()
    background.answer()
    assert drawn == [("a", 1), ("a", 3)]


def test_a_reply_for_another_volume_is_dropped(monkeypatch) -> None:
    feed, background, drawn, _ = make(monkeypatch)
    feed.want(wanted(1))
    feed.tick()
    feed.want(wanted(1, volume="b"))
    background.answer()
    assert drawn == []
    feed.tick()
    background.answer()
    assert drawn == [("b", 1)]


def test_what_is_drawn_is_not_read_again_until_it_is_forgotten(monkeypatch) -> None:
    feed, background, drawn, clock = make(monkeypatch)
    feed.want(wanted(1))
    feed.tick()
    background.answer()
    feed.tick()
    clock.now += 1
    feed.tick()
    assert not background.waiting
    feed.forget()
    feed.tick()
    background.answer()
    assert drawn == [("a", 1)] * 2


def test_slow_drawing_is_followed_by_ten_times_its_rest(monkeypatch) -> None:
    feed, background, _, clock = make(monkeypatch, cost=0.5)
    feed.want(wanted(1))
    feed.tick()
    background.answer()
    feed.tick()
    feed.want(wanted(2))
    clock.now += 4.9
    feed.tick()
    assert not background.waiting
    clock.now += 0.2
    feed.tick()
    assert background.waiting


def test_a_map_in_another_scale_keeps_its_values() -> None:
    old, new = Quantisation(scale=0.5, offset=-64.0), Quantisation(scale=1.0, offset=-128.0)
    stored = np.array([[[0, 128, 255]]], np.uint8)
    restored = _restored(MapPicture(stored, old), new)
    np.testing.assert_allclose(new.values(restored), old.values(stored), atol=0.5)


def test_a_base_is_never_written_into() -> None:
    stored = np.zeros((1, 1, 3), np.uint8)
    restored = _restored(MapPicture(stored, Quantisation()), Quantisation())
    restored[:] = 7
    assert not stored.any()


def test_nothing_is_drawn_during_a_stroke_and_the_newest_right_after(monkeypatch) -> None:
    feed, background, drawn, _ = make(monkeypatch)
    painting = [False]
    feed._held = lambda: painting[0]
    feed.want(wanted(1))
    feed.tick()
    painting[0] = True
    background.answer()  # was on its way when the stroke began
    feed.want(wanted(2))
    feed.tick()
    assert (drawn, background.waiting) == ([], [])
    painting[0] = False
    feed.tick()
    background.answer()
    assert drawn == [("a", 2)]


def test_a_frame_is_drawn_a_part_a_tick_and_the_rest_counts_all_parts(monkeypatch) -> None:
    feed, background, _, clock = make(monkeypatch)

    def takes() -> None:
        clock.now += 0.1

    parts = in_parts(feed, 3, takes)
    feed.want(wanted(1))
    feed.tick()
    background.answer()
    assert parts == [0]
    feed.want(wanted(2))
    feed.tick()
    assert (parts, background.waiting) == ([0, 1], [])
    feed.tick()
    feed.tick()
    assert parts == [0, 1, 2]
    feed.tick()
    ended = clock.now
    assert feed.throttle.last_cost_s == pytest.approx(0.3)
    clock.now = ended + 2.9
    feed.tick()
    assert not background.waiting
    clock.now = ended + 3.1
    feed.tick()
    assert background.waiting
    assert not feed.idle


def test_a_canvas_that_is_slow_to_draw_gets_rarer_updates_in_one_go(monkeypatch) -> None:
    """3D without a GPU: the redraw after a part takes seconds, and shows in nothing but the next tick's lateness."""
    feed, background, _, clock = make(monkeypatch)
    parts = in_parts(feed, 4)
    feed.want(wanted(1))
    feed.tick()
    background.answer()
    assert parts == [0]
    clock.now += 2.0  # the canvas
    feed.tick()
    assert parts == [0, 1, 2, 3]
    clock.now += 2.0
    feed.want(wanted(2))
    feed.tick()
    ended = clock.now
    clock.now = ended + 38
    feed.tick()
    assert not background.waiting, "newer maps rest for ten times what the two redraws took"
    clock.now = ended + 40
    feed.tick()
    assert background.waiting


def test_what_the_user_asks_for_does_not_wait_out_the_rest(monkeypatch) -> None:
    feed, background, drawn, clock = make(monkeypatch, cost=5.0)
    feed.want(wanted(1, 2))
    feed.tick()
    background.answer()
    feed.tick()
    for question in (wanted(2, 1, class_index=2), wanted(1, class_index=2), wanted(1, volume="b")):
        feed.want(question)
        clock.now += 1.1
        feed.tick()
        background.answer()
        feed.tick()
    assert [generation for _, generation in drawn] == [1, 2, 1, 1]
    feed.want(wanted(7, volume="b"))
    clock.now += 1.1
    feed.tick()
    assert not background.waiting
