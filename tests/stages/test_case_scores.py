"""Numbers of a whole case, each worked from the stored arrays by hand."""

from __future__ import annotations

import numpy as np
import pytest
import stage_recipe as recipe
import torch

from pdediff.config import build
from pdediff.stages.opened import Reconstruction, draws_of, truth_of, whole_case
from pdediff.store import open_store, read_identity, read_manifest


def opened(world: recipe.World, name: str) -> Reconstruction:
    path = world.recon[name]
    return Reconstruction(path, open_store(path), read_identity(path), read_manifest(path) or {})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["calibrated", "smc"])
def test_misfit_residuals_and_effective_draws(name: str, world: recipe.World) -> None:
    one = opened(world, name)
    draws, truth = draws_of(one, 0), truth_of(one, 0)
    found = whole_case(one, 0, draws, truth)

    value, std = one.array("observed_data/value")[0], one.array("observed_data/std")[0]
    residual = (one.array("posterior_predictive/noise_free")[0] - value) / std
    assert found["misfit"] == pytest.approx(np.sqrt(np.mean(residual**2)), rel=1e-9)

    pde = build("pde", one.tree.attrs["pde"])

    def size(permeability: np.ndarray, pressure: np.ndarray) -> float:
        fields = {"permeability": torch.from_numpy(permeability), "pressure": torch.from_numpy(pressure)}
        return float(pde.residual(fields).square().mean().sqrt())

    assert found["residual"] == pytest.approx(size(draws["permeability"], draws["pressure"]))
    # the solver's own pair leaves the rounding of float32 storage over, another case's pressure does not fit at all
    assert found["residual_truth"] < 1e-4
    other = truth_of(one, 1)["pressure"][None]
    assert found["residual_unrelated"] == pytest.approx(size(truth["permeability"][None], other))
    assert found["residual_unrelated"] > 0.1

    if name == "smc":
        assert found["ess"] == pytest.approx(float(one.array("sample_stats/ess")[0].min()) * len(draws["pressure"]))
    else:
        assert "ess" not in found
