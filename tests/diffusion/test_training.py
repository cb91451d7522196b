"""Preconditioning, training levels and the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pdediff.diffusion import DenoisingLoss, GaussianPrior, GaussianRandomField, NoiseLevels, WhiteNoise, precondition
from pdediff.types import Purpose, derive


class Constant(nn.Module):
    """Ignores its input."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.full_like(x, self.value)


class Recorder(nn.Module):
    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        self.x, self.label = x, label
        return torch.zeros_like(x)


def field(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_precondition_by_hand():
    """sigma = 3, s = 4, x = 10, F = 2: c_skip 16/25, c_out 12/5, c_in 1/5, label log(3)/4."""
    x, sigma = torch.full((1, 1, 2), 10.0, dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    assert precondition(Constant(2.0), x, sigma, 4.0).flatten().tolist() == pytest.approx([11.2, 11.2], abs=1e-13)
    seen = Recorder()
    precondition(seen, x, sigma, 4.0)
    assert seen.x.flatten().tolist() == pytest.approx([2.0, 2.0], abs=1e-14)
    assert seen.label.tolist() == pytest.approx([math.log(3) / 4])


def test_precondition_limits():
    """D -> x as sigma -> 0 (error of order sigma F) and D -> s F as sigma -> infinity (error of order s / sigma)."""
    x = field(0, 2, 1, 5)
    small, large = (torch.full((2,), s, dtype=torch.float64) for s in (1e-6, 1e6))
    torch.testing.assert_close(precondition(Constant(3.0), x, small, 0.5), x, rtol=0, atol=1e-5)
    found = precondition(Constant(3.0), 1e6 * x, large, 0.5)
    torch.testing.assert_close(found, torch.full_like(x, 1.5), rtol=0, atol=5e-6)


def test_network_input_and_target_have_unit_variance():
    """What the preconditioning is for: with x0 of variance s^2, c_in x and the target of F have variance one."""
    n, s = 200000, 0.7
    x0, eps = s * field(1, n), field(2, n)
    for sigma in (0.05, 0.7, 20.0):
        total = math.sqrt(sigma**2 + s**2)
        x = x0 + sigma * eps
        target = (x0 - s**2 / total**2 * x) * total / (sigma * s)
        # Standard error of a variance sqrt(2 / n) = 0.0032; six of them.
        assert float((x / total).var()) == pytest.approx(1, abs=0.02)
        assert float(target.var()) == pytest.approx(1, abs=0.02)


def test_levels_have_the_truncated_log_normal_law():
    """One level in every one of n equal-probability strata: the k-th smallest lies between two exact quantiles."""
    levels, n = NoiseLevels(mean=0.2, std=1.5, sigma_min=0.01, sigma_max=30.0), 1000
    law = torch.distributions.Normal(0.2, 1.5)
    drawn = levels.draw(n, 5)
    low, high = (float(law.cdf(torch.tensor(math.log(s)).double())) for s in (0.01, 30.0))
    share = ((law.cdf(drawn.log()) - low) / (high - low)).sort().values * n
    k = torch.arange(n, dtype=torch.float64)
    assert ((share > k - 1e-6) & (share < k + 1 + 1e-6)).all()
    assert drawn.min() >= 0.01
    assert drawn.max() <= 30.0
    assert not torch.equal(drawn, drawn.sort().values)  # the batch is not ordered by level
    torch.testing.assert_close(levels.draw(n, 5), drawn, rtol=0, atol=0)
    assert not torch.equal(levels.draw(n, 6), drawn)


@pytest.mark.parametrize("noise", [WhiteNoise(), GaussianRandomField(0.2, 1.5)])
def test_loss_is_a_function_of_seed_and_step(noise):
    loss, x0 = DenoisingLoss(noise, NoiseLevels(), seed=3), field(4, 6, 2, 8, 8)
    first = loss(Constant(0.1), x0, step=7)
    torch.randn(5)  # the global generator must not matter
    assert torch.equal(loss(Constant(0.1), x0, step=7), first)
    assert not torch.equal(loss(Constant(0.1), x0, step=8), first)
    assert not torch.equal(DenoisingLoss(noise, NoiseLevels(), seed=4)(Constant(0.1), x0, step=7), first)
    assert first.shape == (6,)


def test_loss_by_hand():
    """x0 = 0, eps = 1, sigma = s = 1, F = 0: D = 1/2, weight 2, loss 1/2."""
    loss = DenoisingLoss(WhiteNoise(), NoiseLevels(), seed=0)
    zero, one = torch.zeros(1, 1, 4).double(), torch.ones(1, 1, 4).double()
    found = loss.at(Constant(0.0), zero, one, torch.ones(1).double())
    assert found.tolist() == pytest.approx([0.5], abs=1e-14)


def test_loss_minimum_is_the_exact_denoiser():
    """For N(0, s^2) the best F is a multiple of its input, zero when sigma_data = s: no other multiple beats it."""
    s, n = 0.6, 400
    x0 = s * field(6, n, 1, 16)
    loss = DenoisingLoss(WhiteNoise(), NoiseLevels(), seed=1, sigma_data=s)

    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return self.factor * x

    found = {f: float(loss(Scaled(f), x0, step=0).mean()) for f in (-0.3, 0.0, 0.3)}
    # At the optimum the weighted loss is E F*^2 = 1, to sqrt(2 / 6400) = 0.018; off it by 0.3^2 E input^2 = 0.09.
    assert found[0.0] == pytest.approx(1, abs=0.11)
    assert min(found[-0.3], found[0.3]) > found[0.0] + 0.03


def test_noise_of_the_loss_is_the_noise_field():
    """The network sees x0 + sigma eps with eps of the field's law: coloured noise must reach it coloured."""
    noise = GaussianRandomField(0.3, 2.0)
    seen = Recorder()
    levels = NoiseLevels(mean=0.0, std=0.01, sigma_min=0.9, sigma_max=1.1)
    DenoisingLoss(noise, levels, seed=0)(seen, torch.zeros(4000, 1, 8, dtype=torch.float64), step=0)
    x = seen.x[:, 0]
    sigma = torch.exp(4 * seen.label)[:, None]
    eps = x * (sigma**2 + 1).sqrt() / sigma
    matrix = noise.covariance((1, 8)).matvec(torch.eye(8, dtype=torch.float64)[:, None]).flatten(1)
    error = ((matrix**2 + 1) / len(x)).sqrt()
    assert ((eps.T @ eps / len(x) - matrix).abs() / error).max() < 6  # 64 entries: false alarm 1e-7


def test_seeds_of_levels_and_noise_differ():
    assert derive(3, Purpose.LEVEL, 7) != derive(3, Purpose.STEP, 7)


def test_network_denoiser_is_the_precondition():
    from pdediff.diffusion import CalibratedError, NetworkDenoiser, stationary

    errors = field(7, 50, 1, 8).float()
    calibration = CalibratedError((0.5, 2.0), (stationary(errors), stationary(2 * errors)), stationary(3 * errors))
    denoiser = NetworkDenoiser(Constant(0.3), torch.zeros(1, 8).double(), WhiteNoise(), calibration, sigma_data=0.9)
    x, sigma = field(8, 2, 1, 8), torch.tensor([0.4, 4.0], dtype=torch.float64)
    torch.testing.assert_close(denoiser(x, sigma), precondition(Constant(0.3), x, sigma, 0.9), rtol=0, atol=0)
    assert denoiser.shape == (1, 8)
    assert denoiser.error(math.inf) is calibration.prior
    # Same frame as the exact priors: a perfect network for N(0, s^2) is F = 0.
    exact = GaussianPrior(torch.zeros(1, 8).double(), 0.81 * torch.eye(8, dtype=torch.float64))
    perfect = NetworkDenoiser(Constant(0.0), torch.zeros(1, 8).double(), WhiteNoise(), calibration, sigma_data=0.9)
    torch.testing.assert_close(perfect(x, sigma), exact(x, sigma), rtol=1e-12, atol=1e-12)
