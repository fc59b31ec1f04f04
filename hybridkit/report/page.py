"""A report as two documents that say the same: an HTML page that needs no other file, and a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hybridkit.report.console import Console, Table
from hybridkit.report.markup import html_table, in_html, in_markdown, markdown_table
from hybridkit.system.files import write_whole
from hybridkit.system.terminal import one_line

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}.number{text-align:right}"
    "tr.front{background:#fdf3e7}svg{max-width:100%;height:auto}.wide{overflow-x:auto}"
)
_NUMBER = re.compile(r"[-+]?\d[-+\d,.e%± \[\]]*|-?")  # a dash or nothing where a number lacks


class TextTable(NamedTuple):
    """A table whose cells are text; `front` are the places of the rows that stand out."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    front: Sequence[int] = ()

    def number_columns(self) -> list[int]:
        """The places of the columns that hold numbers alone, which stand at the right. The first names the row."""
        places = range(1, len(self.columns))
        return [at for at in places if all(_NUMBER.fullmatch(row[at]) for row in self.rows)]

    def without_repeats(self) -> TextTable:
        """The table without columns that say the same in every row; the title says it instead."""
        alike = {at: column[0] for at, column in enumerate(zip(*self.rows, strict=True)) if len(set(column)) == 1}
        alike.pop(0, None)
        kept = [at for at in range(len(self.columns)) if at not in alike]
        said = ", ".join(f"{self.columns[at]} {cell}" for at, cell in alike.items() if cell not in ("", "-"))
        rows = [[row[at] for at in kept] for row in self.rows]
        title = f"{self.title} ({said})" if said else self.title
        return TextTable(title, [self.columns[at] for at in kept], rows, self.front)

    def html(self) -> str:
        """A heading and the table."""
        table = html_table(self.columns, self.rows, self.front, self.number_columns())
        return f"<h2>{in_html(self.title)}</h2>\n{table}"

    def markdown(self) -> str:
        """A heading and the table."""
        return f"## {in_markdown(self.title)}\n\n{markdown_table(self.columns, self.rows)}"


def print_table(console: Console, table: TextTable) -> None:
    """Print a title, the table and an empty line."""
    drawn = _drawn(table)
    if drawn.whole > console.width:
        table = table.without_repeats()
        drawn = _drawn(table)
    console.print(one_line(table.title), drawn, "", sep="\n")


def _drawn(table: TextTable) -> Table:
    drawn = Table(*table.columns, right=table.number_columns())
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


def inline_svg(svg: str) -> str:
    """An SVG document as an element of an HTML page."""
    return f'<div class="wide">{svg[svg.index("<svg") :]}</div>'


def html_page(title: str, body: Iterable[str]) -> str:
    """A whole HTML document; `body` holds its elements, escaped already."""
    head = f'<meta charset="utf-8"><title>{in_html(title)}</title><style>{_STYLE}</style>'
    inside = "\n".join([f"<h1>{in_html(title)}</h1>", *body])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{inside}\n</body></html>\n'


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts by name into a folder, each whole. Raises OSError, and UserError for a symbolic link."""
    for name, text in files.items():
        write_whole(folder / name, text.encode())
