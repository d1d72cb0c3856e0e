"""A report as one self-contained HTML page: text, tables, and pictures embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from napari_crln import durable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 1080px;
       margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .3rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem }
p { max-width: 75ch; margin: .4rem 0 } img { width: 100%; height: auto }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; margin: .8rem 0 }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #d8dde3; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #1b1f24 }
footer { color: #59636e; font-size: .85rem; margin-top: 3rem }
"""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Parameters
    ----------
    heading : plain text, as is `text`
    rows : a table, its header first
    picture : shown below; `text` is its description too
    """

    heading: str
    text: str = ""
    rows: Sequence[Sequence[str]] = ()
    picture: Figure | None = None


def write_report(path: Path, title: str, lead: str, sections: Sequence[Section], footer: str = "") -> None:
    """Write the page, whole or not at all; an older one is replaced."""
    body = "\n".join(map(_section, sections))
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p>{escape(lead)}</p>\n{body}\n<footer>{escape(footer)}</footer>\n"
        "</body></html>\n"
    )
    durable.replace(path, page.encode())


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.rows:
        parts.append(_table(section.rows))
    if section.picture is not None:
        from napari_crln.engine.figures import data_url

        alt = escape(f"{section.heading}. {section.text}", quote=True)
        parts.append(f'<img alt="{alt}" src="{data_url(section.picture)}">')
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    header, *rest = rows
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rest)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
