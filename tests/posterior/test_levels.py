"""The grid from the error of the denoiser: against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pdediff.diffusion import DenseCovariance, GaussianPrior
from pdediff.errors import ConfigError
from pdediff.posterior import TwistedSMC
from pdediff.posterior.levels import error_grid
from pdediff.samplers import uniform_lambda


def white(std: float) -> GaussianPrior:
    return GaussianPrior(torch.zeros(1, 4).double(), std**2 * torch.eye(4).double())


@pytest.mark.parametrize("std", [0.3, 2.0])
@pytest.mark.parametrize("even", [0.0, 0.4])
def test_levels_share_the_fall_of_the_error(std, even):
    """tr C / d = std^2 s^2 / (std^2 + s^2): each step has its part of it and of log sigma.

    Between nodes 0.36 apart in log sigma the trace is a line: its curvature there is at most an eighth of a step.
    """
    levels = np.array(error_grid(white(std), 80.0, 0.02, 20, even))
    variance = levels**2 / (std**2 + levels**2)
    fall = (variance[:-1] - variance[1:]) / (variance[0] - variance[-1])
    step = np.log(levels[:-1] / levels[1:]) / math.log(80.0 / 0.02)
    assert (1 - even) * fall + even * step == pytest.approx(np.full(20, 0.05), rel=0.125)
    assert (levels[0], levels[-1]) == (80.0, 0.02)


def test_levels_go_with_the_scale_of_the_data():
    one, ten = error_grid(white(1.0), 80.0, 0.02, 12), error_grid(white(10.0), 800.0, 0.2, 12)
    assert ten == pytest.approx([10 * level for level in one], rel=1e-6)


class Flat(GaussianPrior):
    def error(self, sigma: float) -> DenseCovariance:
        return DenseCovariance(torch.eye(4).double(), (1, 4))


def test_an_error_that_does_not_fall_gives_equal_steps():
    prior = Flat(torch.zeros(1, 4).double(), torch.eye(4).double())
    assert error_grid(prior, 80.0, 0.02, 7) == uniform_lambda(80.0, 0.02, 7)


@pytest.mark.parametrize(("high", "low", "n"), [(80.0, 0.02, 0), (1.0, 2.0, 4), (1.0, 0.0, 4)])
def test_what_is_no_grid_is_refused(high, low, n):
    with pytest.raises(ConfigError, match="a grid needs"):
        error_grid(white(1.0), high, low, n)


def test_modes_have_their_weights_in_few_steps(mixture, mode_weights):
    """Eight islands of 256 on 16 levels: total variation 0.04 in long runs, 0.09 with equal steps of log sigma."""
    found = []
    for seed in range(8):
        draws = TwistedSMC(steps=16, particles_per_draw=1)(mixture.prior, mixture.observation, 256, seed)
        ratio = math.exp(float(draws.diagnostics["log_evidence"]) - mixture.log_evidence)
        found.append(ratio * mode_weights(mixture.posterior, draws.x))
    weights = torch.stack(found).sum(0) / torch.stack(found).sum()
    off = 0.5 * float((weights - mixture.posterior.weights).abs().sum())
    print(f"modes {weights}, total variation {off:.3f}")
    assert off < 0.07
