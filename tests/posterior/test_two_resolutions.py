"""Two grids: resampling, the prior and the noise on both, and the law of the upsampled state, mode by mode."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from test_references_alternations import bar as gaussian
from torch import Tensor

from pdediff.config import build
from pdediff.diffusion import GaussianFieldPrior, GaussianRandomField, NoiseField, WhiteNoise, matern_field
from pdediff.errors import ConfigError
from pdediff.observe import GaussianNoise, Observation, PointSensors
from pdediff.posterior import (
    CalibratedGuidance,
    Resampling,
    TwoResolutions,
    coarse_observation,
    coarsened,
    noise_ratio,
    upsampled,
)
from pdediff.samplers import DPMSolverPP

NOISES = [WhiteNoise(), GaussianRandomField(length=0.05, smoothness=1.5)]
either = pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)


def prior_of(noise: NoiseField, grid: tuple[int, ...] = (16, 12)) -> GaussianFieldPrior:
    """A field with structure on both sides of the coarse grid's Nyquist, and a mean with small scales."""
    field = matern_field(grid, length=0.05, smoothness=1.5)
    mean = torch.linspace(0, 1, math.prod(grid), dtype=torch.float64).reshape(1, *grid).sin()
    return GaussianFieldPrior(mean, field.spectrum, noise)


def units(shape: tuple[int, ...]) -> Tensor:
    size = math.prod(shape)
    return torch.eye(size, dtype=torch.float64).reshape(size, *shape)


def test_resampling_keeps_band_limited_fields_and_is_its_own_transpose():
    fine, coarse = (1, 16, 12), (1, 8, 6)
    y, x = torch.meshgrid(torch.arange(16).double() / 16, torch.arange(12).double() / 12, indexing="ij")
    field = (2 * math.pi * (3 * y + 2 * x)).cos()[None, None] + 0.7
    down, up = Resampling(fine, (8, 6)), Resampling(coarse, (16, 12))
    # Band-limited: the values at the coarse points, and back to all of them.
    torch.testing.assert_close(down(field), field[:, :, ::2, ::2], rtol=0, atol=1e-12)
    torch.testing.assert_close(up(down(field)), field, rtol=0, atol=1e-12)
    for operator, source, target in ((down, fine, coarse), (up, coarse, fine)):
        forward = operator(units(source)).flatten(1)
        backward = operator.vjp(torch.zeros(1, *source), units(target)).flatten(1)
        torch.testing.assert_close(backward, forward.T, rtol=0, atol=1e-12)


@either
def test_the_coarse_prior_and_its_noise_are_those_of_the_fine_field(noise):
    """Covariances by matrices: that of the truncated field, and noise that differs by the ratio of levels alone."""
    prior = prior_of(noise)
    small, down = coarsened(prior, (8, 6)), Resampling(prior.shape, (8, 6))
    keep = down(Resampling((1, 8, 6), (16, 12))(units((1, 8, 6)))).flatten(1)  # all but the coarse Nyquist
    matrix = down(units(prior.shape)).flatten(1)
    ratio = noise_ratio(noise, prior.shape, small.shape)
    laws = (
        (prior.error(math.inf), small.error(math.inf)),
        (noise.covariance(prior.shape), noise.covariance(small.shape).scaled(ratio**-2)),
    )
    for fine, coarse in laws:
        truncated = matrix.T @ fine.matvec(units(prior.shape)).flatten(1) @ matrix
        found = keep.T @ coarse.matvec(units(small.shape)).flatten(1) @ keep
        torch.testing.assert_close(found, truncated, rtol=0, atol=1e-12)
    torch.testing.assert_close(small.mean, down(prior.mean[None])[0])


def test_white_noise_is_louder_on_the_fine_grid():
    """Per mode the variance of white noise is one over the number of points: the level doubles in two dimensions."""
    assert noise_ratio(WhiteNoise(), (1, 16, 12), (1, 8, 6)) == pytest.approx(2.0)
    assert noise_ratio(WhiteNoise(), (1, 32), (1, 16)) == pytest.approx(math.sqrt(2))
    smooth = [noise_ratio(GaussianRandomField(0.2, 3.0), (1, n), (1, n // 2)) for n in (16, 32, 64)]
    assert smooth[0] > smooth[1] > smooth[2] > 1
    assert smooth[2] < 1.001


@either
def test_the_upsampled_state_has_the_law_of_the_fine_grid(noise):
    """N(m, S + sigma^2 N): the kept state goes through a matrix, the new scales are drawn; their powers add up."""
    prior, level = prior_of(noise), 0.6
    small = coarsened(prior, (8, 6))
    at = level / noise_ratio(noise, prior.shape, small.shape)
    count = math.prod(small.shape)
    moved = upsampled(prior, torch.cat([torch.zeros(1, *small.shape), units(small.shape)]), level, (4,) * (count + 1))
    matrix = (moved[1:] - moved[:1]).flatten(1)
    coarse = small.error(math.inf).matvec(units(small.shape)) + at**2 * noise.covariance(small.shape).matvec(
        units(small.shape)
    )
    kept = matrix.T @ coarse.flatten(1) @ matrix
    # A random part that knows nothing of x: at 3000 seeds, its power in each mode of the fine grid.
    rows = 3000
    fresh = upsampled(prior, small.mean.expand(rows, *small.shape), level, tuple(range(rows))) - prior.mean
    power = torch.fft.fftn(fresh, dim=(2, 3), norm="ortho").abs().square().mean(0)
    modes = torch.fft.fftn(kept.reshape(-1, *prior.shape), dim=(2, 3), norm="ortho").flatten(1)
    transposed = torch.fft.fftn(modes.T.conj().reshape(-1, *prior.shape), dim=(2, 3), norm="ortho").flatten(1)
    known = transposed.diagonal().real.reshape(prior.shape)
    wanted = prior.error(math.inf).spectrum + level**2 * prior_spectrum(noise, prior.shape)
    shared = known > 1e-9
    torch.testing.assert_close(known[shared], wanted[shared], rtol=1e-9, atol=0)
    assert float(power[shared].max()) < 1e-20
    assert float((power / wanted - 1)[~shared].abs().max()) < 6.5 * math.sqrt(2 / rows)
    assert int(shared.sum()) == 7 * 5
    assert float(fresh.mean(0).abs().max()) < 6 * math.sqrt(float(wanted.mean()) / rows)


def prior_spectrum(noise: NoiseField, shape: tuple[int, ...]) -> Tensor:
    """Eigenvalues of the noise."""
    return torch.fft.fftn(noise.covariance(shape).matvec(units(shape)[:1]), dim=(2, 3)).real[0]


def readings(prior: GaussianFieldPrior, std: float = 0.1, count: int = 9) -> Observation:
    g = torch.Generator().manual_seed(1)
    positions = torch.rand(count, 2, generator=g, dtype=torch.float64) * torch.tensor([15.0, 11.0]).double()
    operator = PointSensors.at([0] * count, positions, prior.shape)
    truth = prior.mean + prior.error(math.inf).draw((3,), torch.float64)
    noise = std * torch.randn(count, generator=g, dtype=torch.float64)
    return Observation(operator(truth)[0] + noise, operator, GaussianNoise(torch.full((count,), std).double()))


def dense(prior: GaussianFieldPrior) -> tuple[Tensor, Tensor]:
    return prior.mean.flatten(), prior.error(math.inf).matvec(units(prior.shape)).flatten(1)


def conditioned(prior: GaussianFieldPrior, observation: Observation) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x0 given the readings, by matrices."""
    mean, covariance = dense(prior)
    white = observation.whitened()
    rows = white.rows(prior.mean).flatten(1)
    gain = covariance @ rows.T @ torch.linalg.inv(torch.eye(len(rows)).double() + rows @ covariance @ rows.T)
    return mean + gain @ white.residual(prior.mean[None])[0], covariance - gain @ rows @ covariance


def test_the_coarse_posterior_is_the_fine_one_without_its_small_scales():
    """The readings' errors take the small scales in: the two agree to rounding, and not without."""
    prior = prior_of(WhiteNoise())
    observation, down = readings(prior), Resampling(prior.shape, (8, 6))
    small, matrix = coarsened(prior, (8, 6)), down(units(prior.shape)).flatten(1)
    keep = down(Resampling((1, 8, 6), (16, 12))(units((1, 8, 6)))).flatten(1)
    mean, covariance = conditioned(prior, observation)
    coarse = coarse_observation(prior, observation, (8, 6))
    for seen, equal in ((coarse, True), (replace(coarse, noise=observation.noise), False)):
        found, spread = conditioned(small, seen)
        gaps = (found @ keep - mean @ matrix).norm(), (keep.T @ spread @ keep - matrix.T @ covariance @ matrix).norm()
        print(f"coarse against restricted posterior: {float(gaps[0]):.1e}, {float(gaps[1]):.1e}")
        assert bool(max(gaps) < 1e-9) is equal
        assert equal or min(gaps) > 1e-2


@either
def test_two_resolutions_sample_the_posterior(noise):
    """Mean and variances of 300 draws, point by point; the switch lies far above the small scales."""
    prior, n = prior_of(noise), 300
    observation = readings(prior)
    method = TwoResolutions(
        CalibratedGuidance(), DPMSolverPP(order=2, noise=0.0), steps=60, switch=8.0, sigma_min=0.01, coarse=0.3
    )
    draws = method(prior, observation, n, 0)
    mean, covariance = conditioned(prior, observation)
    x = draws.x.flatten(1)
    error = (x.mean(0) - mean) / covariance.diagonal().sqrt() * math.sqrt(n)
    # What the readings say of the small scales is missed at the switch by a share 1 / 8 of a draw's spread at most.
    assert float(error.square().mean()) < 1 + 6 * math.sqrt(2 / 30)
    ratio = float((x.var(0) / covariance.diagonal()).mean())
    print(f"{type(noise).__name__}: squared mean error {float(error.square().mean()):.2f}, {ratio:.3f}")
    assert ratio == pytest.approx(1, abs=0.1)
    assert draws.diagnostics == {"denoiser_calls": 61.0, "network_vjps": 0.0}


def test_rows_seeds_and_refusals():
    prior = prior_of(WhiteNoise())
    observation = readings(prior)
    path = Path(__file__).parents[2] / "configs" / "posterior" / "two_resolutions.yaml"
    method = build("posterior", yaml.safe_load(path.read_text()))
    assert method == TwoResolutions(CalibratedGuidance(), DPMSolverPP(order=2, noise=1.0))
    short = replace(method, steps=8)
    many = short(prior, observation, 4, 5).x
    torch.testing.assert_close(short(prior, observation, 1, 5).x, many[:1], rtol=0, atol=1e-10)
    assert torch.equal(short(prior, observation, 4, 5).x, many)
    other, seen, _ = gaussian(8, 3)
    with pytest.raises(ConfigError, match="at least four points"):
        short(prior_of(WhiteNoise(), (15, 12)), observation, 1, 0)
    with pytest.raises(ConfigError, match="GaussianPrior is no prior on function space"):
        short(other, seen, 1, 0)
