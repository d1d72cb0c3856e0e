"""Write docs/reference/configuration.md from the models of `napari_crln.config`.

Usage: python docs/make_reference.py    (a test fails where the page is out of date)
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from napari_crln.config import RunConfig, build, differences, load_preset, presets

PAGE = Path(__file__).resolve().parent / "reference" / "configuration.md"
HEAD = """# Configuration

<!-- Written by docs/make_reference.py from src/napari_crln/config.py: edit that, and run it. -->

A run is made from a TOML file with these fields, kept as `config.toml` in the run's folder. Values come, later ones
winning, from the defaults, a preset (`--preset`), a file and the shell:

```sh
napari-crln train heart.crln --preset hippocampus --set method.dim.prototypes=8 --set method.cps.xi=none
```

"On resume" says what a resumed run may change: *free*, it has no effect on what is learned; *warn*, it is allowed and
recorded; *never*, the saved state would not fit, or the results would lie.
"""
RESUME = {"free": "free", "warn": "warn", "never": "never"}


def page() -> str:
    """The whole page."""
    parts = [HEAD, *_section("", RunConfig), *(_preset(name) for name in presets())]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _section(prefix: str, model: type[BaseModel]) -> Iterator[str]:
    """A heading and a table for each section, depth first."""
    doc = inspect.cleandoc(vars(model).get("__doc__") or "") if prefix else ""
    heading = f"## `[{prefix.rstrip('.')}]`" if prefix else "## Top level"
    rows, inner = [], []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner.append((f"{prefix}{name}.", kind))
        else:
            rows.append(_row(name, field))
    head = ["| field | default | values | what it is | on resume |", "|---|---|---|---|---|"]
    yield "\n".join([heading, "", *([doc, ""] if doc else []), *(head + rows if rows else [])])
    for path, kind in inner:
        yield from _section(path, kind)


def _row(name: str, field: Any) -> str:
    resume = field.json_schema_extra["resume"]
    cells = [f"`{name}`", _shown(field.default), _values(field), field.description, RESUME[resume]]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`".replace("'", '"')
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _values(field: Any) -> str:
    """Type and bounds, in words."""
    bounds = ", ".join(filter(None, map(_bound, field.metadata)))
    kind, optional, _ = _kind(field.annotation).partition(" or none")
    return f"{kind} {bounds}".rstrip() + optional


def _bound(rule: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return ", ".join(f"{sign} {getattr(rule, key):g}" for key, sign in signs.items() if hasattr(rule, key))


def _kind(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "none"
    if origin is typing.Annotated:
        return _annotated(arguments)
    if origin is typing.Literal:
        return " or ".join(f'`"{a}"`' for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(a) for a in arguments)
    if origin is tuple:
        return _tuple(arguments)
    return {bool: "true or false", int: "integer", float: "number", str: "text"}[annotation]


def _annotated(arguments: tuple[Any, ...]) -> str:
    rules = [rule for a in arguments[1:] for rule in getattr(a, "metadata", [])]
    return " ".join([_kind(arguments[0]), *filter(None, map(_bound, rules))])


def _tuple(arguments: tuple[Any, ...]) -> str:
    if arguments[-1] is Ellipsis:
        return f"list of {_kind(arguments[0])}"
    return f"{len(arguments)} × {_kind(arguments[0])}"


def _preset(name: str) -> str:
    changed = differences(build(), build(load_preset(name)))
    rows = [f"| `{path}` | {_shown(new)} |" for path, _, new, _ in changed]
    return "\n".join([f"## Preset `{name}`", "", "| field | value |", "|---|---|", *rows])


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), "utf-8")
