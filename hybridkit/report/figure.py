"""Writing pictures: to a file that the user names, or as SVG; every text in them is plain text."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from hybridkit.report.console import apart
from hybridkit.system.errors import UserError
from hybridkit.system.links import refuse_links
from hybridkit.system.terminal import one_line

if TYPE_CHECKING:  # half a second
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
_LONGEST = 48  # characters of a name in a picture


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
    return f" {name}" if name.startswith("_") else name


def labels(names: Iterable[str]) -> dict[str, str]:
    """Labels of several names, all different: long ones without their common beginning, numbered where need be."""
    names = list(dict.fromkeys(names))
    rests = apart(names)[1] if any(len(name) > _LONGEST for name in names) else names
    short = list(map(label, rests))
    alike = {text for text in short if short.count(text) > 1}
    return {
        name: f"{place}: {text}" if text in alike else text
        for place, (name, text) in enumerate(zip(names, short, strict=True), start=1)
    }


def logarithmic(axes: Axes, *names: str) -> None:
    """Make axes (`x`, `y`) logarithmic, their ticks labelled 1,000 and 1e-05: powers would need matplotlib's TeX."""
    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_major_formatter(lambda value, _: _figure(value))
        axis.set_minor_formatter(lambda value, _, axis=axis: _figure(value) if _short(axis) else "")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if 1 <= abs(value) < 1e7 else f"{value:g}"


def _short(axis: Axis) -> bool:
    """Whether an axis may hold no power of ten."""
    low, high = sorted(axis.get_view_interval())
    return high < 10 * low


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure. Raises UserError where the file cannot be written."""
    try:
        write_figure(figure, file, dpi=150)
    except OSError as error:
        raise UserError(f"--plot {file}: {error.strerror}; name a file in a folder that can be written") from error


def write_figure(figure: Figure, file: Path, dpi: int) -> None:
    """Write a figure. Raises OSError, and UserError where the file is a symbolic link."""
    refuse_links([file])
    with _plain(figure):
        figure.savefig(file, dpi=dpi)


def svg(figure: Figure) -> str:
    """A figure as an SVG document, without a date: equal figures are equal text."""
    out = StringIO()
    with _plain(figure):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


@contextmanager
def _plain(figure: Figure) -> Iterator[None]:
    """While the figure is drawn, no text is read as TeX, and characters that the font lacks cause no warning."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
    plain = rc_context({"text.parse_math": False, "text.usetex": False})  # for ticks, which drawing makes
    with plain, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield
    figure.set_layout_engine("none")  # the panels keep their places, and a second format needs no second layout
