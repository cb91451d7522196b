"""Families of plans that tuners move in, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pdediff.diffusion import GaussianPrior
from pdediff.errors import ConfigError
from pdediff.samplers import DDIM, PC, Eval, Lin, Pilots, fit_weights, run, uniform_lambda
from pdediff.samplers.tuning.nodes import Nodes
from pdediff.samplers.tuning.parameters import Fields
from pdediff.samplers.tuning.weights import Weights

ENDS = (80.0, 0.05)


def test_levels_by_hand() -> None:
    family = Nodes(DDIM(), (16.0, 4.0, 1.0), ())
    assert family.grid(np.zeros(2)) == pytest.approx([16.0, 4.0, 1.0])
    # Steps of lambda as 3 to 1: three quarters of log 16.
    assert family.grid(np.array([math.log(3.0), 0.0])) == pytest.approx([16.0, 2.0, 1.0])
    assert family.grid(np.array([5.0, 5.0])) == pytest.approx([16.0, 4.0, 1.0])
    many = Nodes(DDIM(), tuple(uniform_lambda(80.0, 0.002, 40)), (), knots=5)
    assert (many.size, Nodes(PC(), many.levels, ("s",), knots=5).size) == (5, 6)
    wild = many.grid(np.array([3.0, -4.0, 2.0, 0.0, -3.0]))
    assert (wild[0], wild[-1]) == (80.0, 0.002)
    assert (np.diff(wild) < 0.0).all()
    # Between knots the log of a step is linear: halfway between 1 and 0 it is 1/2, up to the common factor.
    h = -np.diff(np.log(many.grid(np.array([1.0, 0.0, 0.0, 0.0, 0.0]))))
    assert np.log(h / h[-1])[:11] == pytest.approx(np.maximum(0.0, 1.0 - np.arange(11) * 4.0 / 39.0))


def test_free_weights_by_hand() -> None:
    plan = PC("x0", 2).plan(uniform_lambda(*ENDS, 3))
    # Predictors read x and 1, 2, 2 outputs, two correctors x and 2, 3; two calls follow the first.
    assert Weights(plan, levels=False).size == (2 + 3 + 3) + (3 + 4)
    assert Weights(plan).size == 15 + 2
    assert Weights(plan).plan(np.zeros(17)) == plan
    moved = Weights(plan).plan(np.full(17, 0.5))
    for old, new in zip(plan.steps, moved.steps, strict=True):
        if isinstance(old, Lin) and isinstance(new, Lin):
            assert [c for _, c in new.terms] == pytest.approx([1.5 * c for _, c in old.terms])
    calls = [[step.level for step in of.steps if isinstance(step, Eval)] for of in (plan, moved)]
    assert calls[1] == pytest.approx([calls[0][0], *(level * math.exp(0.5) for level in calls[0][1:])])


def test_a_field_keeps_to_its_type() -> None:
    family = Fields(PC("v", 2, s=2.0), ENDS, ("s",))
    assert family.moved(np.array([0.5])).s == 3.0
    with pytest.raises(ConfigError, match="does not allow"):
        family.moved(np.array([-1.5]))


def test_one_step_of_a_gaussian_becomes_exact() -> None:
    """The flow of N(0, v) is linear: fitted weights reach it from DDIM, which misses it by 0.6."""
    of = Pilots(GaussianPrior(torch.zeros(1, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)), 4.0, 0.5)
    fitted = fit_weights(of, DDIM().plan([4.0, 0.5]), {"kind": "DDIM"}, levels=False, ridge=0.0)
    assert fitted.held_out[1] < 1e-6 < 0.1 < fitted.held_out[0]
    x = torch.ones(1, 1, 3, dtype=torch.float64)
    gain = run(fitted.plan, of.denoiser, x, [0])
    assert gain.flatten().tolist() == pytest.approx([math.sqrt((1.0 + 0.25) / (1.0 + 16.0))] * 3, abs=1e-6)
