"""A stored reconstruction, opened, and what its cases say as a whole: misfit, PDE residual, effective draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from pdediff import config as configs
from pdediff.metrics import misfit
from pdediff.pdes import PDE


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """One stored reconstruction, opened."""

    path: Path
    tree: xr.DataTree
    identity: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.name.rpartition("-")[0]

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.tree.attrs["fields"])

    def array(self, path: str) -> np.ndarray:
        """One stored array, all cases."""
        return np.asarray(self.tree[path].values)


def draws_of(one: Reconstruction, case: int) -> dict[str, np.ndarray]:
    """Draws of one case by field, float64."""
    return {name: one.array(f"posterior/{name}")[case].astype(np.float64) for name in one.fields}


def truth_of(one: Reconstruction, case: int) -> dict[str, np.ndarray]:
    """The truth of one case by field, float64."""
    return {name: one.array(f"constant_data/{name}")[case].astype(np.float64) for name in one.fields}


def is_periodic(one: Reconstruction) -> bool:
    """Whether the fields wrap around in all directions."""
    if one.tree.attrs["pde"] is None:
        return all(one.tree.attrs["periodic"])
    return configs.build("pde", one.tree.attrs["pde"]).boundary.startswith("periodic")


def whole_case(
    one: Reconstruction, case: int, draws: dict[str, np.ndarray], truth: dict[str, np.ndarray]
) -> dict[str, float]:
    """Numbers of one case that belong to no single field; those that a method does not have are left out."""
    value, std = (one.array(f"observed_data/{k}")[case] for k in ("value", "std"))
    real = np.isfinite(value)
    predicted = one.array("posterior_predictive/noise_free")[case]
    told = {
        "misfit": misfit(predicted[:, real], value[real], std[real]),
        "denoiser_calls": float(one.array("sample_stats/denoiser_calls")[case]),
        "residual": _residual(one, draws),
        "residual_truth": _residual(one, {name: values[None] for name, values in truth.items()}),
        "residual_unrelated": _residual(one, _mixed(one, case, truth)),
        "ess": float(one.array("sample_stats/ess_min")[case]) * len(predicted),
        "distinct_roots": float(one.array("sample_stats/distinct_roots")[case]),
        "out_of_range": _out_of_range(draws, truth),
    }
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
