"""Names in HTML and Markdown pages: text, and nothing but text, whatever characters it holds."""

import html
import re
from collections.abc import Iterable, Sequence

from hybridkit.report.numbers import read_number
from hybridkit.system.terminal import harmless, one_line

# Emphasis, code, tags, entities, formulas, links, addresses, emoji, struck out text.
_MARKS = re.compile(r"[\\`*<|$]|&[#\w]|\]\s*[(\[:]|://|www\.|:[\w+-]+:|~~|(?<!\w)_|_(?!\w)|^\s*#")

_LONG = 40  # characters of a cell, from which on it wraps anywhere


def in_html(text: str) -> str:
    """The text for an element or a quoted attribute."""
    return html.escape(one_line(text))


def in_text(text: str) -> str:
    """The text for an element that keeps its lines, as `pre` does."""
    return html.escape(harmless(text))


def in_markdown(text: str) -> str:
    """The text for a line or a heading: as code where Markdown would read more than text in it."""
    text = one_line(text)
    if not _MARKS.search(text):
        return text
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{space}{text}{space}{fence}"


def html_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], front: Sequence[int] = (), numbers: Sequence[int] = ()
) -> str:
    """A table of text. Rows at the places `front` are of the class `front`, columns at `numbers` of `number`.

    A cell whose text is not its number by itself has that in `data-value`: the page sorts by it.
    """
    rows = list(rows)
    of_bytes = [any("iB" in cell for cell in column) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = ["number" if at in numbers else "long" if len(cell) > _LONG else "" for at, cell in enumerate(cells)]
        shown = (f'<button type="button">{in_html(c)}</button>' if tag == "th" else in_html(c) for c in cells)
        values = map(_sorted_by, cells, of_bytes) if tag == "td" else [""] * len(cells)
        opened = (
            f"<{tag}{f' class={kind}' if kind else ''}{value}>" for kind, value in zip(kinds, values, strict=True)
        )
        return "".join(f"{tags}{text}</{tag}>" for tags, text in zip(opened, shown, strict=True))

    lines = [f"<tr{' class=front' if n in front else ''}>{line(row, 'td')}</tr>" for n, row in enumerate(rows)]
    head = f"<thead><tr>{line(columns, 'th')}</tr></thead>"
    body = "\n".join(lines)
    return f'<div class="wide"><table class="sortable">{head}\n<tbody>{body}</tbody></table></div>'


def _sorted_by(cell: str, is_bytes: bool) -> str:
    number = read_number(cell, is_bytes)
    return "" if number is None or re.fullmatch(r"-?\d+(\.\d+)?", cell) else f' data-value="{number!r}"'


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text; a bar in a cell is escaped, in code too, as tables want it."""
    lines = [[in_markdown(cell).replace("|", "\\|") for cell in row] for row in (columns, *rows)]
    lines.insert(1, ["---"] * len(columns))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
