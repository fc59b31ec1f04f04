"""Writing pictures: to a file that the user names, or as SVG; every text in them is plain text."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hybridkit.report.console import apart
from hybridkit.report.plot_style import DPI, STYLE
from hybridkit.system.errors import UserError
from hybridkit.system.links import refuse_links
from hybridkit.system.terminal import one_line

if TYPE_CHECKING:  # half a second
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
_LONGEST = 48  # characters of a name in a picture
_TITLE = 96  # characters of a title for which a page has room in one line


def check_plot_file(file: Path) -> None:
    """Raise UserError, before anything is computed, unless a picture can be written to the file."""
    if file.suffix not in FORMATS:
        raise UserError(f"--plot {file}: the name must end in {' or '.join(FORMATS)}")
    place = file if file.exists() else file.parent
    if file.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"--plot {file}: cannot be written; name a file in a folder that can be")
    refuse_links([file])


def label(name: str) -> str:
    """A name as a picture shows it: one line, without its middle where it is long; legends hide what begins with _."""
    name = one_line(name)
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST // 3]}…{name[len(name) - _LONGEST * 2 // 3 + 1 :]}"
    return f" {name}" if name.startswith("_") else name or "-"


def headline(what: str, said: str, panels: int = 1) -> str:
    """The title of one of so many panels beside each other: what it shows, and what is `said` of all that is in it, of
    labels; in two lines where it is long. A title is not cut, as a name is."""
    what = label(what)
    if not said:
        return what
    return f"{what}:\n{said}" if len(what) + len(said) > _TITLE // panels else f"{what}: {said}"


def labels(names: Iterable[str]) -> dict[str, str]:
    """Labels of several names, all different: without their common beginning and last folders, numbered if need be."""
    names = list(dict.fromkeys(names))
    short = list(map(label, _without_last(apart(names)[1])))
    alike = {text for text in short if short.count(text) > 1}
    return {
        name: f"{place}: {text}" if text in alike else text
        for place, (name, text) in enumerate(zip(names, short, strict=True), start=1)
    }


def told_apart(series: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
    """What is said of all series alike, and what tells each from the others; each says the same facts in one order."""
    facts = list(zip(*series, strict=True))
    differ = [len(set(said)) > 1 for said in facts]

    def joined(one: Sequence[str], wanted: bool) -> str:
        return ", ".join(fact for fact, differs in zip(one, differ, strict=True) if fact and differs == wanted)

    return joined(series[0], False), [joined(one, True) for one in series]


def _without_last(names: list[str]) -> list[str]:
    """Paths without the last folders that all of them share, such as `seed-0` of several trials."""
    parts = [name.rpartition("/") for name in names]
    alike = len(names) > 1 and all(first for first, _, _ in parts) and len({last for _, _, last in parts}) == 1
    return _without_last([first for first, _, _ in parts]) if alike else names


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure. Raises UserError where the file cannot be written."""
    try:
        write_figure(figure, file, dpi=DPI)
    except OSError as error:
        raise UserError(f"--plot {file}: {error.strerror}; name a file in a folder that can be written") from error


def write_figure(figure: Figure, file: Path, dpi: int) -> None:
    """Write a figure. Raises OSError, and UserError where the file is a symbolic link."""
    refuse_links([file])
    with _plain(figure):
        figure.savefig(file, dpi=dpi)


def svg(figure: Figure, fonts: Literal["path", "none"] = "path") -> str:
    """A figure as an SVG document, without a date: equal figures are equal text.

    `fonts`: letters as paths, alike everywhere; or as text, which pages show in their own font and colours.
    """
    from matplotlib import rc_context

    out = StringIO()
    with rc_context({"svg.fonttype": fonts}), _plain(figure):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def points(figure: Figure) -> list[dict[str, Any]]:
    """The labelled lines of a drawn figure: each one's name, and its points as [right, down, x, y].

    `right` and `down` are shares of the figure's width and height from its upper left corner; x and y are the data.
    """
    found = []
    width, height = figure.bbox.size
    for axes in figure.axes:
        for line in axes.get_lines():
            name = str(line.get_label())
            data: Any = line.get_xydata()  # (points, 2)
            if name.startswith("_") or not len(data):
                continue
            places = axes.transData.transform(data) / (width, height)
            rows = [
                [round(float(x), 4), round(1 - float(y), 4), float(f"{a:.5g}"), float(f"{b:.5g}")]
                for (x, y), (a, b) in zip(places, data, strict=True)
                if all(map(isfinite, (x, y)))
            ]
            found.append({"name": name.strip(), "x": axes.get_xlabel(), "y": axes.get_ylabel(), "points": rows})
    return found


@contextmanager
def _plain(figure: Figure) -> Iterator[None]:
    """While the figure is drawn, no text is read as TeX, and characters that the font lacks cause no warning."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
    plain = rc_context({**STYLE, "text.parse_math": False, "text.usetex": False})  # for ticks, which drawing makes
    with plain, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield
    figure.set_layout_engine("none")  # the panels keep their places, and a second format needs no second layout
