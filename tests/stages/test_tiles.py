"""Draws that diverge, tiles that are lost, and solves that are counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import stage_recipe as recipe
import torch
import zoo_recipe as zoo

from pdediff import stages
from pdediff.config import build
from pdediff.errors import NumericalError
from pdediff.observe import GaussianNoise, Observation
from pdediff.observe.operator import Differentiable
from pdediff.posterior import Draws
from pdediff.stages import reconstruction
from pdediff.stages.configs import ReconstructConfig
from pdediff.stages.problem_cases import problem_cases, problem_prior
from pdediff.stages.tiles import BLOWN, Counted, Solves, diverged, draw, reweighted

RING = zoo.problem("heat1d")


def config(**more: Any) -> ReconstructConfig:
    """Six draws in three tiles."""
    told = {"name": "ring", "problem": RING, "posterior": zoo.posterior("kriging")}
    return ReconstructConfig.model_validate(told | {"cases": 2, "draws": 6, "tile": 2} | more)


@dataclass(frozen=True)
class Faulty:
    """Draws of the prior, but its n-th call (from 1) fails, and row 1 of its second is far off."""

    failing: tuple[int, ...]
    calls: list[int]
    exact: ClassVar[bool] = False
    linear_only: ClassVar[bool] = False

    @property
    def trace(self) -> int:
        """No weights."""
        return 0

    def __call__(self, prior: Any, observation: Observation, n: int, seed: int) -> Draws:
        self.calls.append(seed)
        if len(self.calls) in self.failing:
            raise NumericalError(f"call {len(self.calls)} is not finite")
        x = prior.error(math.inf).draw((seed, seed + 1), torch.float64)
        if len(self.calls) == 2:
            x[1] *= 1e30
        return Draws.equal(x, {"denoiser_calls": 3.0, "network_vjps": 0.0})


def test_a_lost_tile_costs_its_own_draws_alone() -> None:
    prior = problem_prior(RING)
    seen = problem_cases(RING, 1, 0)[0].observation(prior)
    whole = draw(Faulty((), []), prior.denoiser, seen, config(), 0)
    part = draw(Faulty((1,), []), prior.denoiser, seen, config(), 0)
    assert torch.isnan(part.x[:2]).all()
    torch.testing.assert_close(part.x[4:], whole.x[4:], rtol=0, atol=0)
    assert torch.isneginf(part.log_weights[:2]).all()
    assert float(part.log_weights[2:].exp().sum()) == pytest.approx(1.0)
    with pytest.raises(NumericalError, match="call 3"):
        draw(Faulty((1, 2, 3), []), prior.denoiser, seen, config(), 0)


def test_a_draw_that_is_finite_and_absurd_has_diverged() -> None:
    prior = problem_prior(RING).denoiser
    z = prior.error(math.inf).draw(range(4), torch.float64)
    size = z.flatten(1).square().mean(1).sqrt()
    z = z / size[:, None, None] * torch.tensor([1.0, 0.99 * BLOWN, 1.01 * BLOWN, math.nan]).double()[:, None, None]
    fields = torch.zeros(4, 2, 32)
    assert diverged(z, fields, prior).tolist() == [False, False, True, True]
    fields[0, 1, 3] = math.inf  # a solver that blew up
    assert diverged(z, fields, prior).tolist() == [True, False, True, True]
    weights = reweighted(torch.full((4,), 0.25).log(), torch.tensor([True, False, False, True]))
    assert weights.exp().tolist() == pytest.approx([0.0, 0.5, 0.5, 0.0])


def test_the_store_tells_which_draws_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of case 0 a tile is lost and a draw is absurd; case 1 is whole. Neither number goes into a score as a value."""
    posterior, real = Faulty((1,), []), reconstruction.configs.build
    monkeypatch.setattr(
        reconstruction.configs, "build", lambda group, node: posterior if group == "posterior" else real(group, node)
    )
    path = stages.reconstruct(config(), None, None, tmp_path, recipe.INLINE)
    tree: Any = recipe_tree(path)
    assert tree["status"].values.tolist() == [0, 0]
    assert tree["sample_stats/diverging"].values.tolist() == [[1, 1, 0, 1, 0, 0], [0] * 6]
    drawn, weights = tree["posterior/initial"].values, tree["sample_stats/log_weight"].values
    assert np.isnan(drawn[0, [0, 1, 3]]).all()
    assert np.isfinite(drawn[0, [2, 4, 5]]).all()
    np.testing.assert_allclose(np.exp(weights[0]), [0, 0, 1 / 3, 0, 1 / 3, 1 / 3])
    assert tree["cost"].values.shape == (2,)
    assert (tree["cost"].values > 0).all()
    report = stages.evaluate(recipe.config("evaluate"), [path], tmp_path, recipe.INLINE)
    assert "of the draws diverged and are left out of the scores" in (report / "report.md").read_text()


def recipe_tree(path: Path) -> Any:
    """The finished store."""
    from pdediff.store import open_store

    return open_store(path)


class Cube(Differentiable):
    """x^3 at eight points."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :8] ** 3


def test_solves_are_counted_row_by_row() -> None:
    solves = Solves()
    counted, x = Counted(Cube(), solves), torch.randn(5, 1, 32, generator=torch.Generator().manual_seed(0))
    value = counted(x)
    torch.testing.assert_close(value, Cube()(x))
    torch.testing.assert_close(counted.vjp(x, value), Cube().vjp(x, value))
    torch.testing.assert_close(counted.jvp(x[:2], x[:2]), Cube().jvp(x[:2], x[:2]))
    with torch.enable_grad():
        counted(x.requires_grad_()).sum().backward()
    assert solves.told() == {"forward_solves": 10.0, "tangent_solves": 2.0, "adjoint_solves": 10.0}
    assert counted.differentiable
    assert not counted.linear


def test_a_run_tells_what_it_solved() -> None:
    """Four steps of a mode finder: one forward and one backward solve a draw and level; linear readings are rows."""
    prior = problem_prior(RING)
    y = torch.zeros(8, dtype=torch.float64)
    cubed = Observation(y, Cube(), GaussianNoise(torch.full((8,), 0.5, dtype=torch.float64)))
    posterior = build("posterior", zoo.posterior("dps"))
    told = draw(posterior, prior.denoiser, cubed, config(), 0).diagnostics
    assert told["forward_solves"] == told["adjoint_solves"] == 6 * 4
    assert told["denoiser_calls"] == 4
    seen = problem_cases(RING, 1, 0)[0].observation(prior)
    told = draw(posterior, prior.denoiser, seen, config(), 0).diagnostics
    assert told["forward_solves"] == told["adjoint_solves"] == 0
