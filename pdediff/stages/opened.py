"""A stored reconstruction, opened, and what its cases say as a whole: misfit, PDE residual, effective draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from pdediff import config as configs
from pdediff.metrics import misfit
from pdediff.pdes import PDE

SOLVES = ("forward_solves", "tangent_solves", "adjoint_solves")
COSTS = ("denoiser_calls", "network_vjps", *SOLVES)
"""What a case cost, as its `sample_stats` say."""

KEPT_BYTES = 2**26
"""Arrays up to this size are read once for all cases, larger ones case by case."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """One stored reconstruction, opened."""

    path: Path
    tree: xr.DataTree
    identity: dict[str, Any]
    manifest: dict[str, Any]
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.name.rpartition("-")[0]

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.tree.attrs["fields"])

    def array(self, path: str) -> np.ndarray:
        """One stored array, all cases; small ones are kept."""
        if path not in self.kept:
            found = np.asarray(self.tree[path].values)
            if found.nbytes > KEPT_BYTES:
                return found
            self.kept[path] = found
        return self.kept[path]

    def of(self, case: int, path: str) -> np.ndarray:
        """One case of a stored array."""
        if self.tree[path].nbytes <= KEPT_BYTES:
            return self.array(path)[case]
        return np.asarray(self.tree[path].isel(case=case).values)  # type: ignore[union-attr]

    def exact(self, case: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation of the exact posterior by field; nothing where it is not known."""
        there = self.fields if "exact_mean" in self.tree.children else ()
        return {name: (self.of(case, f"exact_mean/{name}"), self.of(case, f"exact_std/{name}")) for name in there}


def draws_of(one: Reconstruction, case: int) -> dict[str, np.ndarray]:
    """Draws of one case by field, float64."""
    return {name: one.of(case, f"posterior/{name}").astype(np.float64) for name in one.fields}


def truth_of(one: Reconstruction, case: int) -> dict[str, np.ndarray]:
    """The truth of one case by field, float64."""
    return {name: one.of(case, f"constant_data/{name}").astype(np.float64) for name in one.fields}


def is_periodic(one: Reconstruction) -> bool:
    """Whether the fields wrap around in all directions."""
    if one.tree.attrs["pde"] is None:
        return all(one.tree.attrs["periodic"])
    return configs.build("pde", one.tree.attrs["pde"]).boundary.startswith("periodic")


def whole_case(
    one: Reconstruction, case: int, draws: dict[str, np.ndarray], truth: dict[str, np.ndarray]
) -> dict[str, float]:
    """Numbers of one case that belong to no single field; those that a method does not have are left out."""
    value, std = (one.of(case, f"observed_data/{k}") for k in ("value", "std"))
    real = np.isfinite(value)
    kept = one.of(case, "sample_stats/diverging") == 0
    draws, predicted = {name: x[kept] for name, x in draws.items()}, one.of(case, "posterior_predictive/noise_free")
    told = {
        "misfit": misfit(predicted[kept][:, real], value[real], std[real]),
        "residual": _residual(one, draws),
        "residual_truth": _residual(one, {name: values[None] for name, values in truth.items()}),
        "residual_unrelated": _residual(one, _mixed(one, case, truth)),
        "ess": float(one.of(case, "sample_stats/ess_min")) * len(predicted),
        "distinct_roots": float(one.of(case, "sample_stats/distinct_roots")),
        "out_of_range": _out_of_range(draws, truth),
    } | {name: float(one.of(case, f"sample_stats/{name}")) for name in COSTS}
    told |= {name: np.nan for name in SOLVES if told[name] == 0.0}  # no equation was solved
    return {name: number for name, number in told.items() if np.isfinite(number)}


def _residual(one: Reconstruction, fields: dict[str, np.ndarray]) -> float:
    """Root mean square of the PDE residual over draws and points; NaN where the fields are not the whole problem.

    NaN as well where the data have difficulty levels: each is an equation of its own, and a case does not say which.
    """
    if one.tree.attrs["pde"] is None:  # a problem's fields are solutions of one another by construction
        return float("nan")
    pde: PDE = configs.build("pde", one.tree.attrs["pde"])
    needed = {v.name for v in pde.variables()}
    if not needed <= set(fields) or len(one.tree.attrs.get("levels", ())) > 1:
        return float("nan")
    found = pde.residual({name: torch.from_numpy(fields[name]) for name in needed})
    return float(found.square().mean().sqrt())


def _mixed(one: Reconstruction, case: int, truth: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs of this case with outputs of the next: what a residual is when the fields do not belong together."""
    if one.tree.attrs["pde"] is None:
        return {name: values[None] for name, values in truth.items()}
    pde: PDE = configs.build("pde", one.tree.attrs["pde"])
    outputs = {v.name for v in pde.variables() if v.role == "output"}
    other = truth_of(one, (case + 1) % len(one.array("status")))
    return {name: (other if name in outputs else truth)[name][None] for name in truth}


def _out_of_range(draws: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> float:
    """Share of drawn values further from the truths' range than half of it."""
    outside = []
    for name, values in draws.items():
        low, high = np.nanmin(truth[name]), np.nanmax(truth[name])
        slack = 0.5 * (high - low)
        outside.append(float(np.mean((values < low - slack) | (values > high + slack))))
    return max(outside)
