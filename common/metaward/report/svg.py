"""Matplotlib figures as inline SVG that follows the page: its font, its light or dark colours.

Nothing of the process's matplotlib state is used or changed, and the same figure gives the same
bytes (fixed ids, no date).
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, GROUND = "#101112", "#606162", "#d0d1d2", "#fdfcfb"
"""Placeholders: each stands for a colour variable of the page."""

SERIES = (
    "#0a72b2",
    "#d55e0a",
    "#0a9e73",
    "#cc79aa",
    "#5a5a5f",
    "#e69f0a",
    "#6a3d9b",
    "#8c5a2b",
)
"""One for each method that a simulation can have; the first six after Okabe and Ito. Where two are
much alike to a reader, marker and dashes tell them apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.5)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 3)),
    (0, (8, 3)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (1, 3)),
)

PANEL = (3.7, 2.6)
"""Inches of a plot; a point is about a pixel on a phone."""
MOST_PANELS = 12
"""Hospitals with a plot of their own; all are in the tables."""
MEAN = "Mean over hospitals"

VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    GROUND: "var(--ground)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)},
}

STYLE: dict[Any, Any] = {  # Any: matplotlib's type of keys is a list of all their names
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page's own font takes its place
    "font.size": 8.8,
    "text.parse_math": False,  # a site may be called "$x$"
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


@contextmanager
def drawing(width: float, height: float) -> "Iterator[tuple[Figure, Axes]]":
    """Give a figure of ``width`` by ``height`` inches with one set of axes, in the page's style."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A hospital's name may be in a script that DejaVu lacks; the page's font shows it.
        warnings.filterwarnings("ignore", message="Glyph")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure = Figure(figsize=(width, height))
        yield figure, figure.add_subplot()


def to_svg(figure: "Figure", *, name: str, alt: str) -> str:
    """Return a figure as an SVG element.

    Args:
        figure: Drawn within :func:`drawing`, which must still be open.
        name: Unique in the page; the ids within the SVG are made from it.
        alt: What the figure shows, for those who do not see it.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(buffer)  # type: ignore[no-untyped-call]
    return _for_page(buffer.getvalue(), name, alt)


def shorten(text: str, limit: int) -> str:
    """Return at most ``limit`` characters of a text, cut out of its middle.

    Hospitals of one group begin alike, and are told apart by how their names end.

    >>> shorten("university-hospital-bonn", 16)
    'universi…al-bonn'
    """
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    head = text[: limit - 1 - tail].rstrip()
    return f"{head}\N{HORIZONTAL ELLIPSIS}{text[-tail:].lstrip()}"


def _for_page(svg: str, name: str, alt: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)  # holds the date
    svg = svg.replace("xlink:href", "href").replace("'DejaVu Sans'", "system-ui, sans-serif")
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # group names repeat between figures
    for placeholder, variable in VARIABLES.items():
        svg = svg.replace(placeholder, variable)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None
    identifier = f"{escape(name)}-alt"
    opening = (
        f'<svg class="plot" {view_box[0]} role="img" aria-labelledby="{identifier}">'
        f'<title id="{identifier}">{escape(alt)}</title>'
    )
    return opening + svg[svg.index(">") + 1 :].strip()
