"""Work without threads, and children without processes, for presenters under test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from napari_crln.run.launch import Child


class AtOnce:
    """A background that works at once, and streams when it is pumped."""

    def __init__(self) -> None:
        self.streams: list[dict[str, Any]] = []

    def run(
        self, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        try:
            result = work()
        except Exception as error:
            failed(error)
        else:
            done(result)

    def stream(
        self,
        items: Callable[[], Iterator[Any]],
        each: Callable[[Any], None],
        ended: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> Callable[[], None]:
        entry = {"items": iter(items()), "each": each, "ended": ended, "failed": failed, "open": True}
        self.streams.append(entry)
        return lambda: entry.update(open=False)

    def pump(self, count: int = 4) -> None:
        """Take some items of every open stream."""
        for entry in self.streams:
            for _ in range(count):
                if entry["open"]:
                    self._one(entry)

    def _one(self, entry: dict[str, Any]) -> None:
        try:
            item = next(entry["items"])
        except StopIteration:
            entry["open"] = False
            entry["ended"]()
            return
        except Exception as error:
            entry["open"] = False
            entry["failed"](error)
            return
        if item is not None:
            entry["each"](item)


class Later(AtOnce):
    """A background whose answers come when asked for, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Callable[[], None]] = []

    def run(
        self, work: Callable[[], Any], done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        answer = super().run
        self.waiting.append(lambda: answer(work, done, failed))

    def answer(self, index: int = 0) -> None:
        self.waiting.pop(index)()


class FakeChild(Child):
    """A process that lives until told otherwise; remembers how it was asked to end."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.arguments, self.log, self.pid = arguments, log, 0
        self.code: int | None = None
        self.asked: list[str] = []

    @property
    def returncode(self) -> int | None:
        return self.code

    @property
    def alive(self) -> bool:
        return self.code is None

    def stop(self, grace_s: float = 30.0) -> None:
        self.asked.append("stop")

    def terminate(self, grace_s: float = 5.0) -> None:
        self.asked.append("terminate")


class Launcher:
    """Starts fake children, and keeps them."""

    def __init__(self) -> None:
        self.children: list[FakeChild] = []

    def __call__(self, arguments: list[str], log: Path) -> FakeChild:
        self.children.append(FakeChild(arguments, log))
        return self.children[-1]

    @property
    def last(self) -> FakeChild:
        return self.children[-1]
