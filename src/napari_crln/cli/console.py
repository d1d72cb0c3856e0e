"""Where commands print: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

import codecs
import io
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console

#: Columns of a table that is not written to a terminal: wide enough that nothing wraps.
_FILE_WIDTH = 160
_ESCAPED = "napari_crln.escaped"


class Tell(Protocol):
    """Told of progress: units done, units in all, and what is being done."""

    def __call__(self, done: int, total: int, name: str = "") -> None: ...


def accept_any_text() -> None:
    """Have stdout and stderr write what their encoding lacks as `\\uXXXX`, where they would fail.

    Names and paths are of any script, and a redirect on Windows has an ANSI code page. The encoding itself stays: it
    is what whoever reads the file or the pipe expects.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a program that calls `main` may have put anything there
            stream.reconfigure(errors=_ESCAPED)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """As JSON escapes, unlike Python's own handlers: a document stays one in any encoding."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPED, _escaped)


def print_json(document: Any) -> None:
    """One JSON document on stdout; null for numbers that are not finite, which JSON has none of."""
    print(_for_programs(json.dumps(_finite(document), indent=1, ensure_ascii=False), sys.stdout))


def print_json_line(text: str) -> None:
    """A line on stdout that is JSON already, at once."""
    print(_for_programs(text.rstrip("\n"), sys.stdout), flush=True)


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
            text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
            print(_for_programs(text, sys.stderr), file=sys.stderr, flush=True)

    yield tell


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _for_programs(text: str, stream: TextIO) -> str:
    """JSON is UTF-8: where the stream has another encoding, it goes in ASCII, which is both."""
    encoding = codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name
    return text if encoding == "utf-8" else text.encode("ascii", _ESCAPED).decode()


def _like_number(cell: str) -> bool:
    """Digits and what stands between them in ranges, shapes, fractions and "mean ± SD"."""
    return all(character.isdigit() or character in " –-+.,±×/%[]" for character in cell)
