"""Two rocks: a smooth threshold has derivatives, a sharp one refuses what needs them."""

import pytest
import torch
from problem_recipe import small

from pdediff.config import build
from pdediff.errors import ConfigError
from pdediff.flows import compose
from pdediff.pdes import Darcy, Problem
from pdediff.stages.problems import setup_of


def test_fields_by_hand() -> None:
    """g = -0.1, 0 and 0.1: low or high for a sharp threshold, half way at 0 for a smooth one."""
    g = torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64)
    assert small("darcy_binary2d", width=0.0).permeability(g).tolist() == [3.0, 12.0, 12.0]  # type: ignore[attr-defined]
    found = small("darcy_binary2d", width=0.4).permeability(g)  # type: ignore[attr-defined]
    share = 1 / (1 + torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64).exp())
    torch.testing.assert_close(found, 3 + 9 * share)


def test_pressure_is_that_of_the_equation() -> None:
    problem = small("darcy_binary2d", width=0.0)
    truth, observation = problem.case(3)
    assert set(truth[0].flatten().tolist()) == {3.0, 12.0}
    solved = Darcy().solve(Problem({"permeability": truth[:1]}))["pressure"]
    torch.testing.assert_close(truth[1:], solved)
    assert len(observation.y) == 10


def test_derivatives_of_the_smooth_threshold() -> None:
    """Against central differences."""
    made = setup_of(small("darcy_binary2d", width=1.0))
    z = made.draw((1, 2))
    v, w = made.draw((3, 4)), torch.randn(2, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = 1e-5
    slope = (made.readings(z + h * v) - made.readings(z - h * v)) / (2 * h)
    torch.testing.assert_close((made.readings.vjp(z, w) * v).sum((1, 2, 3)), (slope * w).sum(1), rtol=1e-5, atol=1e-9)


def test_methods_without_derivatives_take_the_sharp_threshold() -> None:
    problem = small("darcy_binary2d", width=0.0)
    observation = problem.case(1).observation
    with pytest.raises(ConfigError, match="a sharp threshold"):
        build("posterior", compose.node("posterior", "calibrated"))(problem.prior(), observation, 2, 0)
    run = {"chains": 2, "burn_in": 4, "samples": 4, "thin": 1, "reference": "prior"}
    found = build("posterior", compose.node("posterior", "pcn") | {"run": run})(problem.prior(), observation, 4, 0)
    assert torch.isfinite(found.x).all()
    with pytest.raises(ConfigError, match="high must be above low"):
        small("darcy_binary2d", high=2.0)
