"""Where commands print: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console

#: Columns of a table that is not written to a terminal: wide enough that nothing wraps.
_FILE_WIDTH = 160


class Tell(Protocol):
    """Told of progress: units done, units in all, and what is being done."""

    def __call__(self, done: int, total: int, name: str = "") -> None: ...


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(document, indent=1, ensure_ascii=False))


def say(text: str) -> None:
    """A line on stdout."""
    print(text)


def remark(text: str) -> None:
    """A line on stderr: for people, not part of the result."""
    print(text, file=sys.stderr)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """A table on stdout; columns after the first are right-aligned where their cells look like numbers."""
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table(title=Text(title) if title else None, title_justify="left")
    for index, name in enumerate(header):
        numeric = all(_like_number(row[index]) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console(sys.stdout).print(table)


def console(stream: Any) -> Console:
    """A rich console for a stream, wide where nobody's terminal limits it."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else _FILE_WIDTH, highlight=False)


@contextmanager
def progress_bar(title: str, shown: bool = True) -> Iterator[Tell]:
    """A bar on stderr while the block runs; nothing where stderr is no terminal or `shown` is off."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console(sys.stderr), transient=True, disable=not (shown and sys.stderr.isatty())
    ) as bar:
        task = bar.add_task(title, total=None)

        def tell(done: int, total: int, name: str = "") -> None:
            bar.update(task, completed=done, total=total, description=f"{title} {name}".strip())

        yield tell


@contextmanager
def progress_json(every_s: float = 0.2) -> Iterator[Tell]:
    """Progress for programs: JSON lines on stderr, one every `every_s` at most, and always the last."""
    next_line = 0.0

    def tell(done: int, total: int, name: str = "") -> None:
        nonlocal next_line
        if time.monotonic() >= next_line or done >= total:
            next_line = time.monotonic() + every_s
            line = {"kind": "progress", "done": done, "total": total, "name": name}
            print(json.dumps(line, ensure_ascii=False, separators=(",", ":")), file=sys.stderr, flush=True)

    yield tell


def _like_number(cell: str) -> bool:
    """Digits and what stands between them in ranges, shapes, fractions and "mean ± SD"."""
    return all(character.isdigit() or character in " –-+.,±×/%[]" for character in cell)
