"""What every guidance of configs/guidance must do; a config enrols its method here."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from pdediff.config import build
from pdediff.diffusion import CalibratedError, FourierCovariance, NetworkDenoiser, WhiteNoise, matern_field
from pdediff.errors import ConfigError
from pdediff.observe import (
    CorrelatedGaussianNoise,
    Differentiable,
    GaussianNoise,
    Observation,
    PointSensors,
    exponential,
)
from pdediff.posterior import DPS, MMPS, CalibratedGuidance, Guidance, GuidedSampling
from pdediff.posterior.keyed import Keyed
from pdediff.samplers import DDIM, DPMSolverPP

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "guidance").glob("*.yaml"))
SIGMAS = (0.05, 0.6, 3.0, 30.0)

COST = {"mmps": (1, 4), "tmpd": (1, 2), "hybrid": (2, 2), "stsl": (2, 2), "amplified": (2, 0)}
"""Calls of the network and backward passes through it for one estimate, where it is not one and one or none.

The exact solve of MMPS takes as many as it takes: three readings and rounding.
"""

zoo = pytest.mark.parametrize("name", [path.stem for path in CONFIGS])


def made(name: str) -> Guidance:
    return build("guidance", yaml.safe_load((CONFIGS[0].parent / f"{name}.yaml").read_text()))


def states(prior, rows: int, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(rows)
    x = (1 + sigma) * torch.randn(rows, *prior.shape, generator=g, dtype=torch.float64)
    return x, torch.full((rows,), sigma, dtype=torch.float64)


@zoo
def test_guidance_of_a_row_does_not_see_the_batch(name, mixture):
    """T7: alone, among others and in another order; whole-batch norms of published codes fail here."""
    guided = made(name)(mixture.prior, mixture.observation)
    keyed = guided.keyed if isinstance(guided, Keyed) else lambda seeds: guided
    for sigma in SIGMAS:
        x, level = states(mixture.prior, 6, sigma)
        # One row far from the others: its misfit would set a common scale.
        x[5] += 100.0
        many = keyed(range(6))(x, level)
        alone = torch.cat([keyed((i,))(x[i : i + 1], level[:1]) for i in range(6)])
        scale = float((many - x).abs().max()) + 1.0
        torch.testing.assert_close(many, alone, rtol=1e-9, atol=1e-9 * scale)
        order = (3, 0, 5, 1, 4, 2)
        torch.testing.assert_close(keyed(order)(x[list(order)], level), many[list(order)], rtol=1e-9, atol=1e-9 * scale)


@zoo
def test_rows_of_different_levels_are_what_they_are_alone(name, mixture):
    guided = made(name)(mixture.prior, mixture.observation)
    x, _ = states(mixture.prior, 4, 1.0)
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    together = guided(x, sigma)
    for i in range(4):
        # CG to 1e-6 may stop at another iteration; keys of random draws are those of the level, not of the call.
        torch.testing.assert_close(together[i : i + 1], guided(x[i : i + 1], sigma[i : i + 1]), rtol=1e-5, atol=1e-5)


@zoo
def test_samples_two_rows_under_two_samplers(name, mixture):
    """Eight points, two rows; finite, and not the unguided draws."""
    for sampler in (DPMSolverPP(), DDIM(eta=1.0)):
        draws = GuidedSampling(made(name), sampler, steps=8, sigma_max=20.0)(mixture.prior, mixture.observation, 2, 0)
        assert draws.x.shape == (2, 1, 8)
        assert draws.x.dtype == torch.float64
        assert not draws.x.requires_grad
        calls, vjps = COST.get(name, (1, made(name).needs_vjp))
        if name == "mmps_exact":
            vjps = draws.diagnostics["network_vjps"] / 9
            assert 2 <= vjps <= 6
        assert draws.diagnostics == {"denoiser_calls": 9.0 * calls, "network_vjps": 9.0 * vjps}


@zoo
def test_the_estimate_moves_towards_the_readings(name, field):
    """At moderate noise and a random state; the norm rules take fixed steps, so only the direction is asked of them."""
    guided = made(name)(field.prior, field.observation)
    x, sigma = states(field.prior, 3, 0.6)
    plain = field.prior(x, sigma)
    move = guided(x, sigma) - plain
    lifted = field.observation.operator.vjp(plain, field.observation.residual(plain))
    assert ((move * lifted).flatten(1).sum(1) > 0).all()


class Bent(Differentiable):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        value = x.flatten(1)[:, :240:20]
        return value + 0.1 * value**3


@zoo
def test_nonlinear_operators_run_or_are_refused(name, field):
    bent = Observation(field.observation.y, Bent(), field.observation.noise)
    guidance = made(name)
    if guidance.linear_only:
        with pytest.raises(
            ConfigError, match=f"{type(guidance).__name__} needs a linear observation operator"
        ) as caught:
            guidance(field.prior, bent)
        assert len(caught.value.message.splitlines()) == 1
        assert caught.value.hint == "use posterior=calibrated"
        with pytest.raises(ConfigError, match="GuidedSampling needs a linear"):
            GuidedSampling(guidance, DDIM(), steps=2)(field.prior, bent, 2, 0)
    else:
        x, sigma = states(field.prior, 2, 0.6)
        out = guidance(field.prior, bent)(x, sigma)
        assert torch.isfinite(out).all()
        assert (out - field.prior(x, sigma)).abs().max() > 1e-4


@zoo
def test_correlated_noise_of_the_readings(name, field):
    """Guidance in whitened readings: correlated errors give what their whitened observation gives."""
    guidance = made(name)
    base = guidance.guidance if name == "amplified" else guidance
    if isinstance(base, CalibratedGuidance | DPS) or name in ("jfps", "flowchef"):
        pytest.skip("reads the standard deviations of independent errors, or none at all")
    sensors = torch.linspace(0, 1, 12, dtype=torch.float64)[:, None]
    noise = CorrelatedGaussianNoise.at(sensors, 0.3, exponential(0.2), white=0.1)
    observation = Observation(field.observation.y, field.observation.operator, noise)
    x, sigma = states(field.prior, 2, 0.6)
    found, white = guidance(field.prior, observation), guidance(field.prior, observation.whitened())
    if name == "hard_constraint":
        torch.testing.assert_close(found(x, sigma), white(x, sigma), rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(found(x, sigma), white(x, sigma), rtol=1e-6, atol=1e-6)
    other = guidance(field.prior, field.observation)(x, sigma)
    assert name in ("hard_constraint", "ddnm") or (found(x, sigma) - other).abs().max() > 1e-4


class Crooked(nn.Module):
    """A linear network whose Jacobian is neither symmetric nor positive."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(16, 16, generator=g) / 4)

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ self.matrix).reshape(x.shape)


@zoo
def test_a_crooked_network_in_single_precision(name):
    """A Jacobian that is no covariance: finite estimates in the network's type, no gradient left on its parameters."""
    sigmas = (0.02, 0.2, 2.0, 20.0)
    exact = matern_field((4, 4), length=0.3, smoothness=1.0)
    errors = [FourierCovariance(exact.error(s).spectrum.float()) for s in (*sigmas, math.inf)]
    calibration = CalibratedError(sigmas, tuple(errors[:-1]), errors[-1])
    prior = NetworkDenoiser(Crooked(), torch.zeros(1, 4, 4), WhiteNoise(), calibration)
    sensors = PointSensors.at([0, 0, 0], torch.tensor([[0.3, 0.6], [1.5, 2.0], [3.0, 0.2]]).double(), (1, 4, 4))
    observation = Observation(torch.ones(3), sensors, GaussianNoise(torch.full((3,), 0.1)))
    guidance = made(name)
    if isinstance(guidance, MMPS):
        guidance = replace(guidance, iterations=3)  # asked for a tolerance it says that it cannot meet it
    g = torch.Generator().manual_seed(3)
    for sigma in SIGMAS:
        x = (1 + sigma) * torch.randn(3, 1, 4, 4, generator=g)
        with torch.no_grad():
            out = guidance(prior, observation)(x, torch.full((3,), sigma))
        assert out.dtype == torch.float32
        assert torch.isfinite(out).all()
        assert not out.requires_grad
    assert prior.network.matrix.grad is None
