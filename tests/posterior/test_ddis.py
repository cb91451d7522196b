"""DDIS: a prior of the coefficient alone and a network as forward model, in DAPS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import yaml
from torch import nn

from pdediff.config import build
from pdediff.diffusion import matern_field
from pdediff.observe import GaussianNoise, Observation, PointSensors, Solution


class Surrogate(nn.Module):
    """A network that has learned a linear equation: a smoothing of the coefficient; differentiable, not told linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 5, padding=2, padding_mode="circular").double()
        with torch.no_grad():
            self.conv.weight.fill_(1 / 25)
            self.conv.bias.fill_(0.3)  # type: ignore[union-attr]

    def forward(self, coefficient: torch.Tensor) -> torch.Tensor:
        return self.conv(coefficient)


def test_a_surrogate_in_the_operator_gives_the_posterior_of_its_own_equation(moments):
    """The network happens to be affine, so the posterior of the coefficient is known; the method is not told."""
    prior, network = matern_field((8, 8), length=0.2, smoothness=2.0), Surrogate()
    positions = 7 * torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sensors, std = PointSensors.at([0] * 5, positions, (1, 8, 8)), torch.full((5,), 0.05).double()
    truth = prior.error(float("inf")).draw((5,), torch.float64)
    with torch.no_grad():
        y = sensors(network(truth))[0]
    observation = Observation(y, sensors @ Solution(network), GaussianNoise(std))
    assert not observation.operator.linear
    affine = Observation(y, sensors @ Solution(network, linear=True), GaussianNoise(std))
    with torch.no_grad():
        offset = affine.operator(torch.zeros(1, 1, 8, 8).double())[0]
    rows = affine.rows(prior.mean).flatten(1)
    exact, _ = prior.dense().condition(rows, y - offset, torch.diag(std**2))
    path = Path(__file__).parents[2] / "configs" / "posterior" / "ddis.yaml"
    ddis = replace(build("posterior", yaml.safe_load(path.read_text())), steps=6)
    draws = ddis(prior, observation, 80, 0)
    found = moments(draws.x, exact)
    print(f"DDIS: {found}")
    assert abs(found.z_mean) < 8
    assert abs(found.z_spread) < 6
    assert draws.diagnostics["denoiser_calls"] == 6
    assert all(p.grad is None for p in network.parameters())
