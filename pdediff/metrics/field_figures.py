"""Figures of single cases: truth, observations, mean, std, draws and error of every method on common scales."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from pdediff.metrics.calibration import weighted_quantile
from pdediff.metrics.canvas import TRUTH, figure, limits, png, styles, tidy
from pdediff.metrics.errors import mean, standard_deviation
from pdediff.metrics.report_data import Case, FieldInfo, Method, Posterior, Sensors
from pdediff.metrics.weights import normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

DRAWS = 3
_MAPS = {"value": "viridis", "std": "magma", "error": "RdBu_r"}


def case_figure(case: Case, info: FieldInfo, methods: Sequence[Method], frame: int = -1) -> bytes:
    """PNG of one field of one case, one row per method.

    Fields over (y, x) or (time, x) are maps; over (time, y, x) the map at index `frame`; over x alone, or another
    single dim, lines with 50 and 90 % bands. The truth and errors are left out where no truth is known.
    """
    methods = [m for m in methods if m.name in case.posteriors and info.name in case.posteriors[m.name].draws]
    if len(info.dims) == 1:
        return _lines(case, info, methods)
    return _maps(case, info, methods, frame)


def _slice(values: np.ndarray, info: FieldInfo, frame: int) -> np.ndarray:
    """The shown map: (..., time, y, x) at `frame`, everything else as it is."""
    return values[..., frame, :, :] if len(info.dims) == 3 else values


def _chosen(posterior: Posterior, name: str) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Finite draws, their weights, and the draws to show: spread over the ensemble, the heaviest when weighted."""
    draws = np.asarray(posterior.draws[name], dtype=np.float64)
    finite = np.isfinite(draws).reshape(len(draws), -1).all(axis=1)
    draws = draws[finite]
    if len(draws) == 0:
        return draws, np.zeros(0), []
    weighted = posterior.log_weights is not None
    weights = normalise(np.asarray(posterior.log_weights)[finite] if weighted else None, len(draws))
    order = np.argsort(-weights, kind="stable") if weighted and np.ptp(weights) > 1e-12 else np.arange(len(draws))
    return draws, weights, [int(i) for i in order[:DRAWS]]


def _columns(
    case: Case, info: FieldInfo, methods: Sequence[Method], frame: int
) -> dict[str, list[tuple[str, str, np.ndarray]]]:
    """By method, the panels of its row as (title, kind, values)."""
    result = {}
    truth = None if case.truth is None else _slice(np.asarray(case.truth[info.name], dtype=np.float64), info, frame)
    for method in methods:
        draws, weights, shown = _chosen(case.posteriors[method.name], info.name)
        if len(draws) == 0:
            result[method.name] = []
            continue
        draws = _slice(draws, info, frame)
        centre = mean(draws, weights)
        row = [("mean", "value", centre)]
        row += [(f"draw {i + 1}", "value", draws[j]) for i, j in enumerate(shown)]
        row += [("std", "std", standard_deviation(draws, weights))]
        row += [] if truth is None else [("mean − truth", "error", centre - truth)]
        result[method.name] = row
    return result


def _scales(
    panels: dict[str, list[tuple[str, str, np.ndarray]]], truth: np.ndarray | None
) -> dict[str, tuple[float, float]]:
    """One colour scale per quantity, for all methods of the case; the values' one is the truth's where it is known."""
    kinds = {k: [v for row in panels.values() for _, kind, v in row if kind == k] for k in _MAPS}
    value = limits([truth], 0.0, 100.0) if truth is not None and np.ptp(truth) > 0.0 else limits(kinds["value"])
    error = max(abs(v) for v in limits(kinds["error"])) if kinds["error"] else 1.0
    return {"value": value, "std": (0.0, limits(kinds["std"])[1]), "error": (-error, error)}


def _maps(case: Case, info: FieldInfo, methods: Sequence[Method], frame: int) -> bytes:
    panels = _columns(case, info, methods, frame)
    truth = None if case.truth is None else _slice(np.asarray(case.truth[info.name], dtype=np.float64), info, frame)
    scales = _scales(panels, truth)
    columns = max([len(row) for row in panels.values()] + [5])
    sheet = _Sheet(len(methods) + 1, columns, _aspect(info))
    images: dict[str, AxesImage] = {}
    if truth is not None:
        images["value"] = _map(sheet.cell(0, 0), truth, info, "value", scales, "truth")
    sensors = [s for s in case.sensors if s.field == info.name]
    _observations(sheet.cell(0, 0 if truth is None else 1), sensors, info, scales["value"], frame)
    for i, method in enumerate(methods, start=1):
        for j, (title, kind, values) in enumerate(panels[method.name]):
            images[kind] = _map(sheet.cell(i, j), values, info, kind, scales, title if i == 1 else "")
        if not panels[method.name]:
            sheet.text(i, 0, 0.5, "all draws\ndiverged")
        sheet.text(i, 0, -0.12, _wrapped(method.shown), rotation=90)
    kinds = [k for k in _MAPS if k in images]
    names = {"value": info.label, "std": f"posterior std [{info.units}]", "error": f"mean − truth [{info.units}]"}
    for i, kind in enumerate(kinds):
        ends = "max" if kind == "std" else "both"
        bar = sheet.made.colorbar(images[kind], cax=sheet.bar(i, 2), orientation="horizontal", extend=ends)
        bar.set_label(names[kind], fontsize=8, labelpad=1)
        bar.ax.tick_params(labelsize=7, pad=1)
    sheet.made.suptitle(_title(case, info, frame), fontsize=10, y=1.0 - 0.12 / sheet.height, va="top")
    return png(sheet.made)


class _Sheet:
    """A grid of equal cells, placed in inches: maps keep their shape, labels never meet."""

    SIDE, GAP, LEFT, TOP, TITLE, BOTTOM = 1.45, 0.10, 0.42, 0.36, 0.24, 0.10

    def __init__(self, rows: int, columns: int, aspect: float) -> None:
        self.tall, self.columns = self.SIDE * aspect, columns
        self.width = self.LEFT + columns * (self.SIDE + self.GAP) + 0.05
        # The first row needs its own titles, and so does the second; the others share those of the second.
        self.height = self.TOP + rows * (self.tall + self.GAP) + 2 * self.TITLE + self.BOTTOM
        self.made = figure(self.width, self.height, None)

    def _box(self, row: int, column: float) -> tuple[float, float]:
        titles = self.TITLE * (1 if row == 0 else 2)
        x = self.LEFT + column * (self.SIDE + self.GAP)
        return x, self.height - self.TOP - titles - (row + 1) * self.tall - row * self.GAP

    def _axes(self, x: float, y: float, wide: float, tall: float) -> Axes:
        return self.made.add_axes((x / self.width, y / self.height, wide / self.width, tall / self.height))

    def cell(self, row: int, column: int) -> Axes:
        """Axes of one map."""
        return self._axes(*self._box(row, column), self.SIDE, self.tall)

    def bar(self, index: int, column: int) -> Axes:
        """Axes of colour bar `index` (0 to 2), right of `column` in the first row."""
        x, y = self._box(0, column)
        wide = (self.columns - column) * (self.SIDE + self.GAP) - 0.75
        return self._axes(x + 0.4, y + self.tall - 0.12 - index * max(self.tall / 3.0, 0.46), wide, 0.10)

    def text(self, row: int, column: int, along: float, text: str, rotation: float = 0.0) -> None:
        """Text beside (negative `along`) or inside a cell."""
        x, y = self._box(row, column)
        place = ((x + along * self.SIDE) / self.width, (y + self.tall / 2.0) / self.height)
        self.made.text(*place, text, rotation=rotation, ha="center", va="center", fontsize=9)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 20)[:2])


def _title(case: Case, info: FieldInfo, frame: int) -> str:
    text = f"case {case.index}: {info.long_name or info.name}"
    if len(info.dims) == 3:
        unit = info.coordinate_units.get("time", "1")
        text += f" at time {np.asarray(info.coordinates['time'])[frame]:.3g}" + ("" if unit == "1" else f" {unit}")
    elif "time" in info.dims and len(info.dims) == 2:
        text += f" ({info.dims[0]} upwards, {info.dims[1]} to the right)"
    return text


def _extent(info: FieldInfo) -> tuple[float, float, float, float]:
    """Edges of the outer cells (left, right, bottom, top)."""
    edges: list[float] = []
    for dim in (info.dims[-1], info.dims[-2]):
        c = np.asarray(info.coordinates[dim], dtype=np.float64)
        half = (c[-1] - c[0]) / (2.0 * (len(c) - 1)) if len(c) > 1 else 0.5
        edges += [float(c[0] - half), float(c[-1] + half)]
    return edges[0], edges[1], edges[2], edges[3]


def _aspect(info: FieldInfo) -> float:
    left, right, bottom, top = _extent(info)
    return 1.0 if info.dims[-2] == "time" else float(np.clip(abs((top - bottom) / (right - left)), 0.4, 2.0))


def _map(
    axes: Axes, values: np.ndarray, info: FieldInfo, kind: str, scales: dict[str, tuple[float, float]], title: str
) -> AxesImage:
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    low, high = scales[kind]
    aspect = "auto" if info.dims[-2] == "time" else "equal"
    return axes.imshow(
        values,
        origin="lower",
        extent=_extent(info),
        aspect=aspect,
        cmap=_MAPS[kind],
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )


def _observations(
    axes: Axes, sensors: Sequence[Sensors], info: FieldInfo, scale: tuple[float, float], frame: int
) -> None:
    """Where and what was measured, on the colour scale of the field; in a (time, y, x) field those of the frame."""
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[], facecolor="0.88")
    left, right, bottom, top = _extent(info)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_aspect("auto" if info.dims[-2] == "time" else "equal")
    count = 0
    for one in sensors:
        kept = np.ones(len(one.values), dtype=bool)
        if len(info.dims) == 3 and "time" in one.coordinates:
            times = np.asarray(info.coordinates["time"], dtype=np.float64)
            gap = abs(times[1] - times[0]) / 2.0 if len(times) > 1 else np.inf
            kept = np.abs(np.asarray(one.coordinates["time"]) - times[frame]) <= gap
        count += int(kept.sum())
        size = float(np.clip(900.0 / max(kept.sum(), 1), 4.0, 26.0))
        axes.scatter(
            np.asarray(one.coordinates[info.dims[-1]])[kept],
            np.asarray(one.coordinates[info.dims[-2]])[kept],
            c=np.asarray(one.values)[kept],
            cmap=_MAPS["value"],
            vmin=scale[0],
            vmax=scale[1],
            s=size,
            edgecolors="0.2",
            linewidths=0.4 if size > 8 else 0.0,
            clip_on=False,
        )
    axes.set_title(f"{count} observations" if count else "not observed", fontsize=9)


def _lines(case: Case, info: FieldInfo, methods: Sequence[Method]) -> bytes:
    """Truth, bands, draws and observations of a field over one dim: a panel per method, one value axis for all."""
    x = np.asarray(info.coordinates[info.dims[0]], dtype=np.float64)
    unit = info.coordinate_units.get(info.dims[0], "1")
    look = styles([m.name for m in methods])
    made = figure(8.6, 2.1 * max(len(methods), 1) + 0.5)
    panels = made.subplots(max(len(methods), 1), 2, squeeze=False, sharex=True, sharey="col", width_ratios=(2.2, 1.0))
    for row, method in zip(panels, methods, strict=False):
        posterior = case.posteriors[method.name]
        draws, weights, shown = _chosen(posterior, info.name)
        colour = look[method.name][0]
        if len(draws):
            _band(row[0], x, draws, np.log(np.maximum(weights, 1e-300)), colour)
            for j in shown:
                row[0].plot(
                    x, draws[j], color=colour, linewidth=0.6, alpha=0.8, label="draws" if j == shown[0] else None
                )
            row[0].plot(x, mean(draws, weights), color=colour, linewidth=1.8, label="mean")
            _error(row[1], x, draws, weights, case, info, colour)
        if case.truth is not None:
            row[0].plot(x, case.truth[info.name], color=TRUTH, linewidth=1.2, linestyle="--", label="truth")
        for one in (s for s in case.sensors if s.field == info.name):
            row[0].errorbar(
                one.coordinates[info.dims[0]],
                one.values,
                one.std,
                fmt="o",
                color=TRUTH,
                markersize=3.5,
                elinewidth=0.8,
                label="observations",
            )
        last = method is methods[-1]
        along = info.dims[0] + ("" if unit == "1" else f" [{unit}]")
        tidy(row[0], along if last else "", info.label, method.shown)
        tidy(
            row[1], along if last else "", f"[{info.units}]", "error and spread" if case.truth is not None else "spread"
        )
    handles, labels = panels[0][0].get_legend_handles_labels()
    if handles:
        made.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    made.suptitle(_title(case, info, -1), fontsize=10)
    return png(made)


def _band(axes: Axes, x: np.ndarray, draws: np.ndarray, log_weights: np.ndarray, colour: str) -> None:
    for level, alpha in ((0.9, 0.15), (0.5, 0.25)):
        low, high = (weighted_quantile(draws, p, log_weights) for p in ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
        axes.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0, label=f"{level:.0%} interval")


def _error(
    axes: Axes, x: np.ndarray, draws: np.ndarray, weights: np.ndarray, case: Case, info: FieldInfo, colour: str
) -> None:
    std = standard_deviation(draws, weights)
    axes.fill_between(x, -2.0 * std, 2.0 * std, color=colour, alpha=0.2, linewidth=0, label="± 2 std")
    axes.axhline(0.0, color=TRUTH, linewidth=0.6)
    if case.truth is not None:
        axes.plot(x, mean(draws, weights) - case.truth[info.name], color=colour, linewidth=1.2, label="mean − truth")
    axes.legend(fontsize=7, frameon=False, loc="upper right")
