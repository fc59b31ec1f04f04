"""A report as two documents that say the same: an HTML page that needs no other file, and a Markdown page."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from hybridkit.report.console import Console, Table
from hybridkit.report.markup import html_table, in_html, in_markdown, markdown_table
from hybridkit.system.files import write_whole
from hybridkit.system.terminal import one_line

# A word of a cell with numbers: 1,024.5, +3.1%, 16k, 3,279x, 1/16, [0.0,, 9.1]*; a unit, k or MiB; a dash for none.
_WORD = re.compile(r"[-+[]?[-+]?\d[-+\d,./e%]*[kMGTx]?[],]*\*?|[kKMGTPE]?i?B?|±|-")


def is_number_cell(cell: str) -> bool:
    """Whether a cell holds numbers alone, with their units, or nothing."""
    return all(map(_WORD.fullmatch, cell.split()))


class TextTable(NamedTuple):
    """A table whose cells are text; `front` are the places of the rows that stand out.

    The first `heads` columns name the row: they are repeated where a table is too wide and its columns are parted.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    front: Sequence[int] = ()
    heads: int = 1

    def number_columns(self) -> list[int]:
        """The places of the columns that hold numbers alone, which stand at the right. The first names the row."""
        places = range(1, len(self.columns))
        return [at for at in places if all(is_number_cell(row[at]) for row in self.rows)]

    def without_repeats(self) -> TextTable:
        """The table without columns that say the same in every row; the title says it instead."""
        alike = {at: column[0] for at, column in enumerate(zip(*self.rows, strict=True)) if len(set(column)) == 1}
        alike.pop(0, None)
        if self.heads > 1:  # the others are figures, which stay beside each other
            alike = {at: cell for at, cell in alike.items() if at < self.heads}
        kept = [at for at in range(len(self.columns)) if at not in alike]
        said = ", ".join(f"{self.columns[at]} {cell}" for at, cell in alike.items() if cell not in ("", "-"))
        rows = [[row[at] for at in kept] for row in self.rows]
        title = f"{self.title} ({said})" if said else self.title
        heads = sum(at < self.heads for at in kept)
        return TextTable(title, [self.columns[at] for at in kept], rows, self.front, heads)

    def within(self, width: int) -> Iterator[TextTable]:
        """The table in parts of as many columns as a terminal of so many has room for, of one at least."""
        whole = [max(len(cell) for cell in cells) + 2 for cells in zip(self.columns, *self.rows, strict=True)]
        room, begin = width + 2 - sum(whole[: self.heads]), self.heads
        for at in range(self.heads, len(whole) + 1):
            if at == len(whole) or (at > begin and sum(whole[begin : at + 1]) > room):
                kept = [*range(self.heads), *range(begin, at)]
                rows = [[row[place] for place in kept] for row in self.rows]
                yield self._replace(columns=[self.columns[place] for place in kept], rows=rows)
                begin = at

    @property
    def characters(self) -> int:
        """How wide it is where no cell is folded."""
        return sum(max(map(len, cells)) + 2 for cells in zip(self.columns, *self.rows, strict=True))

    def narrowest(self, name: str) -> TextTable:
        """The table, or where that is narrower, its rows as columns; `name` is what its columns were."""
        heads = [", ".join(row[: self.heads]) for row in self.rows]
        cells = [list(column) for column in zip(*(row[self.heads :] for row in self.rows), strict=True)]
        rows = [[column, *row] for column, row in zip(self.columns[self.heads :], cells, strict=True)]
        turned = TextTable(self.title, [name, *heads], rows)
        folded = turned._replace(columns=[name, *(max(head.split(", "), key=len) for head in heads)])  # at commas
        return turned if folded.characters < self.characters else self

    def html(self) -> str:
        """A heading, unless it has no title, and the table."""
        table = html_table(self.columns, self.rows, self.front, self.number_columns())
        return f"<h3>{in_html(self.title)}</h3>\n{table}" if self.title else table

    def markdown(self) -> str:
        """A heading and the table."""
        return f"## {in_markdown(self.title)}\n\n{markdown_table(self.columns, self.rows)}"


def print_table(console: Console, table: TextTable) -> None:
    """Print a title, the table and an empty line."""
    if _drawn(table).whole > console.width:
        table = table.without_repeats()
    console.print(one_line(table.title))
    if len(table.columns) == 1 and len(table.rows) == 1:  # the title gives the value
        console.print(one_line(table.rows[0][0]), "", sep="\n")
        return
    words = set(range(len(table.columns))) - set(table.number_columns())
    parted = _drawn(table).whole > console.width and max(words) < table.heads  # words fold, numbers do not
    for part in table.within(console.width) if parted else [table]:
        console.print(_drawn(part), "", sep="\n")


def _drawn(table: TextTable) -> Table:
    drawn = Table(*table.columns, right=table.number_columns())
    for row in table.rows:
        drawn.add_row(*row)
    return drawn


class PageSection(NamedTuple):
    """A part of a page: its title, and its elements, escaped already. One without elements is left out."""

    title: str
    parts: Sequence[str]

    def html(self) -> str:
        """The heading, which the page's contents link to, and the elements."""
        return "\n".join([f'<section id="{self.id}"><h2>{in_html(self.title)}</h2>', *self.parts, "</section>"])

    @property
    def id(self) -> str:
        """The name of its anchor."""
        return f"section-{re.sub('[^a-z0-9]+', '-', self.title.lower())}"


def paragraph(text: str, kind: str = "") -> str:
    """A text as a paragraph of a class."""
    return f"<p{f' class={kind}' if kind else ''}>{in_html(text)}</p>"


def folded(title: str, parts: Sequence[str]) -> str:
    """Elements that a reader opens."""
    return f"<details><summary>{in_html(title)}</summary>{''.join(parts)}</details>"


def about(*said: str) -> str:
    """When, by which version and by which command a page was made, and what else is said of it."""
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    command = shlex.join(["hybridkit", *sys.argv[1:]])
    lines = [f"{date}, hybridkit {importlib.metadata.version('hybridkit')}", *said]
    return f"<p class=about>{' · '.join(map(in_html, lines))}<br><code>{in_html(command[:500])}</code></p>"


def html_page(title: str, head: Sequence[str], sections: Iterable[PageSection]) -> str:
    """A whole HTML document that needs no other file: title, elements of the head, contents, sections."""
    parts = [section for section in sections if section.parts]
    links = " ".join(f'<a href="#{part.id}">{in_html(part.title)}</a>' for part in parts)
    nav = [f"<nav>{links}</nav>"] if len(parts) > 2 else []
    body = "\n".join([f"<h1>{in_html(title)}</h1>", *head, *nav, *(part.html() for part in parts)])
    style, script = ((Path(__file__).parent / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{in_html(title)}</title><style>{style}</style></head><body>\n{body}\n"
        f'<script type="module">{script}</script></body></html>\n'
    )


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write texts by name into a folder, each whole. Raises OSError, and UserError for a symbolic link."""
    for name, text in files.items():
        write_whole(folder / name, text.encode())
