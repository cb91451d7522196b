"""Figures without a display: one style, PNG bytes, a palette for methods, smaller files where needed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
# Okabe and Ito (2008): told apart with every common colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#6B6B6B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
TRUTH = "#000000"


def figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """Empty figure of `width` x `height` inches, on no global state; `layout` None for axes placed by hand."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(made)
    return made


def png(made: Figure) -> bytes:
    """The figure as PNG bytes, the same bytes for the same figure."""
    out = io.BytesIO()
    made.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def quantise(image: bytes, colours: int = 128) -> bytes:
    """The PNG with a palette of at most `colours`, or unchanged where that is not smaller."""
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        reduced = opened.convert("RGB").quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    out = io.BytesIO()
    reduced.save(out, format="PNG", optimize=True)
    return min(out.getvalue(), image, key=len)


def styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, by its place in the list."""
    return {m: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, m in enumerate(methods)}


def tidy(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Labels, a light grid, no box."""
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_title(title, fontsize=10)
    axes.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def limits(arrays: Sequence[np.ndarray], low: float = 0.5, high: float = 99.5) -> tuple[float, float]:
    """Common colour limits of several arrays: percentiles, so that one wild draw does not flatten all the others."""
    values = np.concatenate([np.zeros(0), *(np.asarray(a, dtype=np.float64).reshape(-1) for a in arrays)])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    start, stop = np.percentile(values, [low, high])
    if stop <= start:
        start, stop = float(values.min()), float(values.max())
    return (float(start), float(stop)) if stop > start else (float(start) - 0.5, float(start) + 0.5)
