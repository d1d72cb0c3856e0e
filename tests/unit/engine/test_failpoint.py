from __future__ import annotations

import os
import signal

import pytest

from napari_crln.engine import failpoint as module
from napari_crln.engine.failpoint import VARIABLE, failpoint


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Signals that failpoints send, not delivered."""
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(number))
    module._met.clear()
    return signals


def test_without_the_variable_nothing_happens(sent: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    failpoint("a:b")
    assert sent == []


def test_it_kills_at_the_first_meeting_and_only_at_its_own_point(
    sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "a:b")
    failpoint("a:bc")
    assert sent == []
    failpoint("a:b")
    assert sent == [signal.SIGKILL]


def test_others_signals_at_later_meetings_and_several(
    sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "a:b@2=SIGINT,c:d=SIGTERM,c:d=SIGINT")
    failpoint("a:b")
    assert sent == []
    failpoint("a:b")
    failpoint("c:d")
    failpoint("c:d")
    assert sent == [signal.SIGINT, signal.SIGTERM, signal.SIGINT]
