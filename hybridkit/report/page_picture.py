"""A figure as an element of a page: an SVG drawing in the page's own colours and font, with its values for hovering."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from hybridkit.report.figure import points, svg
from hybridkit.report.markup import in_html
from hybridkit.report.plot_style import COLORS, FAINT, GRID, INK, PAPER, UNKNOWN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VARIABLES = {INK: "ink", FAINT: "faint", GRID: "grid", PAPER: "paper", UNKNOWN: "none"}
_VARIABLES |= {color: f"c{place}" for place, color in enumerate(COLORS)}
_COLOR = re.compile("|".join(_VARIABLES))
_LARGE = 4.5  # inches of width, from which on a picture scrolls on a phone rather than being unreadable


def picture(name: str, title: str, figure: Figure) -> str:
    """The `<figure>` element. `name` is that of the file it is saved as, and unlike all others of a page."""
    drawing = _inline(svg(figure, fonts="none"), name, title)
    values = json.dumps(points(figure), separators=(",", ":")).replace("<", "\\u003c")
    size = ' class="large"' if figure.get_figwidth() > _LARGE else ""
    kinds = ((kind, f"Save as {kind.upper()}") for kind in ("svg", "png"))
    buttons = " ".join(f'<button type="button" data-save="{kind}">{said}</button>' for kind, said in kinds)
    return (
        f'<figure id="{name}"{size}><div class="drawing">{drawing}</div>'
        f'<script type="application/json">{values}</script>'
        f"<figcaption><span>{in_html(title)}</span> {buttons}</figcaption></figure>"
    )


def _inline(document: str, name: str, title: str) -> str:
    """An SVG document as an element: its names begin with the figure's, its colours are the page's variables."""
    text = document[document.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = _COLOR.sub(lambda found: f"var(--{_VARIABLES[found[0]]})", text)
    head, rest = text.split(">", 1)
    _, _, width, _ = re.search(r'viewBox="([^"]+)"', head)[1].split()  # type: ignore[index]  # matplotlib writes it
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{in_html(title)}" style="max-width:{float(width) * 1.6:.0f}px">{rest}'
