"""Charts over all cases: calibration, rank histograms, spectra, cost against accuracy, training, SMC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pdediff.metrics.canvas import TRUTH, figure, png, styles, tidy
from pdediff.metrics.report_data import Case, Method, ProfileRow, Training
from pdediff.metrics.score import CASE, LEVELS
from pdediff.metrics.spectra import METHOD, Boundary
from pdediff.metrics.summary import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _of(profiles: Sequence[ProfileRow], method: str, field: str) -> list[ProfileRow]:
    return [p for p in profiles if p.method == method and p.field == field]


def _present(profiles: Sequence[ProfileRow], methods: Sequence[Method], field: str) -> list[Method]:
    return [m for m in methods if _of(profiles, m.name, field)]


def coverage_curve(profiles: Sequence[ProfileRow], methods: Sequence[Method], fields: Sequence[str]) -> bytes:
    """Coverage against nominal level, one panel per field; bars are one standard error between cases."""
    made = figure(4.6 * len(fields), 4.2)
    look = styles([m.name for m in methods])
    panels = made.subplots(1, len(fields), squeeze=False, sharey=True)[0]
    for axes, field in zip(panels, fields, strict=True):
        axes.plot([0, 1], [0, 1], color=TRUTH, linewidth=1, linestyle="--", label="nominal")
        for method in _present(profiles, methods, field):
            curves = np.stack([p.profile.coverage for p in _of(profiles, method.name, field)])
            error = curves.std(axis=0, ddof=1) / np.sqrt(len(curves)) if len(curves) > 1 else None
            colour, marker = look[method.name]
            centre = curves.mean(axis=0)
            axes.plot(LEVELS, centre, color=colour, marker=marker, markersize=3.5, linewidth=1.4, label=method.shown)
            if error is not None:
                axes.fill_between(LEVELS, centre - error, centre + error, color=colour, alpha=0.15, linewidth=0)
        axes.set_aspect("equal")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        tidy(axes, "nominal level of the interval", "share of points covered" if axes is panels[0] else "", field)
    _legend(made, panels[0])
    return png(made)


def rank_histograms(profiles: Sequence[ProfileRow], methods: Sequence[Method], fields: Sequence[str]) -> bytes:
    """Rank of the truth among the draws, fields down and methods across; whiskers are two standard errors."""
    made = figure(max(2.3 * len(methods), 4.0), 2.3 * len(fields))
    look = styles([m.name for m in methods])
    panels = made.subplots(len(fields), len(methods), squeeze=False, sharey="row", sharex=True)
    for index, (row, field) in enumerate(zip(panels, fields, strict=True)):
        top = 0.0
        for axes, method in zip(row, methods, strict=True):
            found = [p.profile.ranks for p in _of(profiles, method.name, field)]
            tidy(axes, title=method.shown if index == 0 else "")
            if not found:
                axes.text(0.5, 0.5, "no value", transform=axes.transAxes, ha="center", color="0.5")
                continue
            shares = np.stack(found)
            density = shares.mean(axis=0) * shares.shape[1]
            error = (
                2.0 * shares.std(axis=0, ddof=1) * shares.shape[1] / np.sqrt(len(shares)) if len(shares) > 1 else 0.0
            )
            centres = (np.arange(len(density)) + 0.5) / len(density)
            axes.bar(centres, density, width=0.9 / len(density), color=look[method.name][0], alpha=0.75)
            if len(shares) > 1:
                down = np.minimum(error, density)  # a density is not negative
                axes.errorbar(centres, density, [down, error], fmt="none", ecolor="0.25", elinewidth=0.8)
            axes.axhline(1.0, color=TRUTH, linewidth=1, linestyle="--")
            top = max(top, float(np.max(density + error)))
        row[0].set_ylim(0.0, min(1.08 * max(top, 1.5), 8.0))
        row[0].set_ylabel(f"{field}\ndensity of ranks", fontsize=9)
    made.supxlabel("rank of the truth among the draws (0 = below all, 1 = above all)", fontsize=9)
    return png(made)


def spectra_chart(
    profiles: Sequence[ProfileRow],
    methods: Sequence[Method],
    field: str,
    units: str = "1",
    boundary: Boundary = "bounded",
) -> bytes:
    """Radial spectra of truth, posterior mean and draws, geometric mean over cases; one panel per method."""
    methods = _present(profiles, methods, field)
    made = figure(max(3.0 * len(methods), 4.2), 3.3)
    look = styles([m.name for m in methods])
    panels = made.subplots(1, max(len(methods), 1), squeeze=False, sharey=True)[0]
    lows, highs = [], []
    for axes, method in zip(panels, methods, strict=False):
        found = [p.profile for p in _of(profiles, method.name, field)]
        k = found[0].wavenumber[1:]
        truth, centre, drawn = (
            _log_mean([getattr(p, f"spectrum_{kind}")[1:] for p in found]) for kind in ("truth", "mean", "draws")
        )
        colour = look[method.name][0]
        axes.loglog(k, truth, color=TRUTH, linewidth=2.2, alpha=0.6, label="truth")
        axes.loglog(k, drawn, color=colour, linewidth=1.4, label="draws")
        axes.loglog(k, centre, color=colour, linewidth=1.2, linestyle=":", label="mean of draws")
        lows += [truth.min(), drawn.min()]
        highs += [truth.max(), drawn.max()]
        tidy(axes, "wavenumber [cycles per unit length]", "", method.shown)
        axes.legend(fontsize=8, frameon=False, loc="lower left")
    if lows:
        panels[0].set_ylim(min(lows) / 30.0, max(highs) * 3.0)
    panels[0].set_ylabel(f"power of {field} [{_square(units)}]", fontsize=9)
    made.suptitle(f"Spectra by {METHOD[boundary]}", fontsize=9, color="0.35")
    return png(made)


def _square(units: str) -> str:
    return "1" if units == "1" else f"({units})²"


def _log_mean(powers: Sequence[np.ndarray]) -> np.ndarray:
    return np.exp(np.mean(np.log(np.maximum(np.stack(powers), 1e-300)), axis=0))


def cost_accuracy(table: Table, methods: Sequence[Method], fields: Mapping[str, str]) -> bytes:
    """CRPS against seconds and against denoiser calls per case; `fields` maps names to units. Bars: 95 % intervals."""
    made = figure(8.6, 3.3 * len(fields))
    look = styles([m.name for m in methods])
    panels = made.subplots(len(fields), 2, squeeze=False, sharey="row", sharex="col")
    for index, (row, (field, units)) in enumerate(zip(panels, fields.items(), strict=True)):
        for axes, (metric, text) in zip(
            row, (("seconds", "seconds per case"), ("denoiser_calls", "denoiser calls per case")), strict=True
        ):
            for method in methods:
                score, cost = table.get(method.name, field, "crps"), table.get(method.name, CASE, metric)
                if (
                    score is None
                    or cost is None
                    or not np.isfinite([score.mean, cost.mean]).all()
                    or cost.mean < 0.0
                    or (metric == "seconds" and cost.mean == 0.0)
                ):
                    continue
                colour, marker = look[method.name]
                if np.isfinite(score.lower):
                    axes.plot([cost.mean] * 2, [score.lower, score.upper], color=colour, linewidth=1.2)
                axes.plot([cost.mean], [score.mean], marker, color=colour, markersize=8, label=method.shown)
            # Closed-form methods call no denoiser: zero must have a place on the axis.
            axes.set_xscale("symlog", linthresh=1.0) if metric == "denoiser_calls" else axes.set_xscale("log")
            tidy(axes, text if index == len(fields) - 1 else "")
        row[0].set_ylabel(f"CRPS of {field}" + ("" if units == "1" else f" [{units}]"), fontsize=9)
        row[0].set_ylim(bottom=0.0)
    _legend(made, panels[0][0])
    return png(made)


def _legend(made: Figure, axes: Axes) -> None:
    """One legend for all panels, above them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        made.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6), fontsize=8, frameon=False)


def training_curve(training: Training) -> bytes:
    """Loss per step with its running median, validation loss, and validation loss per noise level."""
    by_level = len(training.levels) > 0
    made = figure(8.6 if by_level else 5.0, 3.2)
    panels = made.subplots(1, 2 if by_level else 1, squeeze=False)[0]
    loss = np.asarray(training.loss, dtype=np.float64)
    window = max(1, len(loss) // 50)
    panels[0].semilogy(training.steps, loss, color="0.8", linewidth=0.7, label="training, each step")
    count = len(loss) // window * window
    blocks, middles = loss[:count].reshape(-1, window), np.asarray(training.steps)[:count].reshape(-1, window)
    panels[0].semilogy(
        middles.mean(axis=1), np.median(blocks, axis=1), color="#0072B2", label="training, running median"
    )
    if len(training.valid_steps):
        panels[0].semilogy(
            training.valid_steps, training.valid_loss, "o-", color="#D55E00", markersize=4, label="validation"
        )
    tidy(panels[0], "training step", "loss (weighted, no units)")
    panels[0].legend(fontsize=8, frameon=False)
    if by_level:
        panels[1].loglog(training.levels, training.level_loss, "o-", color="#D55E00", markersize=4)
        tidy(panels[1], "noise level sigma (normalised fields)", "validation loss")
    return png(made)


def ess_curve(cases: Sequence[Case], methods: Sequence[Method]) -> bytes | None:
    """Effective sample size over the noise levels of SMC, one line per case; None when no method has it."""
    traced = [m for m in methods if any(m.name in c.posteriors and c.posteriors[m.name].ess is not None for c in cases)]
    if not traced:
        return None
    made = figure(max(4.4, 3.8 * len(traced)), 3.2)
    look = styles([m.name for m in methods])
    panels = made.subplots(1, len(traced), squeeze=False, sharey=True)[0]
    for axes, method in zip(panels, traced, strict=True):
        for case in cases:
            posterior = case.posteriors.get(method.name)
            if posterior is None or posterior.ess is None:
                continue
            x = np.arange(1, len(posterior.ess) + 1) if posterior.levels is None else posterior.levels
            axes.plot(x, posterior.ess, color=look[method.name][0], alpha=0.6, linewidth=1.2)
        levelled = all(c.posteriors[method.name].levels is not None for c in cases if method.name in c.posteriors)
        if levelled:
            axes.set_xscale("log")
            axes.invert_xaxis()
        axes.set_ylim(bottom=0.0)
        tidy(axes, "noise level sigma (time runs to the right)" if levelled else "step", "", method.shown)
    panels[0].set_ylabel("effective sample size", fontsize=9)
    return png(made)
