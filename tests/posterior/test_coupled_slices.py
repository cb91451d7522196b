"""Slices and their coupling: a stack of Gaussian slices is one Gaussian; total variation against another solver."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import lsq_linear
from torch import Tensor

from pdediff.diffusion import Denoiser, GaussianFieldPrior, GaussianPrior, GaussianRandomField, matern_field
from pdediff.errors import ConfigError
from pdediff.observe import Differentiable, GaussianNoise, Observation, PointSensors
from pdediff.posterior import Difference, DiffusionMBIR, GuidedSampling, Sliced, root
from pdediff.samplers import DPMSolverPP, run

SLICES, POINTS = 5, 6
SHAPE = (1, SLICES, POINTS)
SIZE = SLICES * POINTS


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def units(shape: tuple[int, ...] = SHAPE) -> Tensor:
    size = math.prod(shape)
    return torch.eye(size, dtype=torch.float64).reshape(size, *shape)


def stack(coloured: bool = False) -> Sliced:
    """Five slices of six points with a mean; noise of each slice white, or a field."""
    field = matern_field((POINTS,), length=0.2, smoothness=1.5)
    noise = GaussianRandomField(0.1, 1.0) if coloured else field.noise
    return Sliced(GaussianFieldPrior(torch.linspace(-1, 1, POINTS).double()[None], field.spectrum, noise), SLICES)


def readings(std: float = 0.2, count: int = 4) -> Observation:
    """Four readings, each of many points of several slices."""
    sensors = PointSensors(torch.arange(SIZE).expand(count, SIZE).contiguous(), normals(0, count, SIZE) / 3)
    return Observation(normals(1, count), sensors, GaussianNoise(torch.full((count,), std).double()))


@pytest.mark.parametrize("coloured", [False, True])
def test_a_stack_of_slices_is_one_prior(coloured):
    """Its parts against matrices of independent blocks; each slice by itself, rows at levels of their own."""
    prior = stack(coloured)
    one = prior.slice.error(0.7).matvec(units((1, POINTS))).flatten(1)
    block = torch.block_diag(*[one] * SLICES)
    covariance = prior.error(0.7)
    assert covariance.shape == prior.shape == SHAPE
    torch.testing.assert_close(covariance.matvec(units()).flatten(1), block)
    torch.testing.assert_close(covariance.scaled(2.0).solve(units()).flatten(1), torch.linalg.inv(2 * block))
    torch.testing.assert_close(covariance.diagonal().flatten(), block.diagonal())
    half = root(covariance)
    spread = half.spread(torch.eye(half.size).double()).flatten(1)
    torch.testing.assert_close(spread.T @ spread, block)
    torch.testing.assert_close(half.gather(units()), spread.T)
    for drawn, wanted in (
        (covariance.draw(tuple(range(4000)), torch.float64), block),
        (prior.noise.sample(tuple(range(4000)), SHAPE, torch.float64), prior.noise.covariance(SHAPE)),
    ):
        exact = wanted if isinstance(wanted, Tensor) else wanted.matvec(units()).flatten(1)
        found = drawn.flatten(1).T @ drawn.flatten(1) / 4000
        scale = (exact.diagonal()[:, None] * exact.diagonal()).sqrt()
        assert float(((found - exact) / scale).abs().max()) < 6 * math.sqrt(2 / 4000)
    x, sigma = normals(2, 2, *SHAPE), torch.tensor([0.3, 2.0]).double()
    by_hand = [prior.slice(x[:, :, i], sigma) for i in range(SLICES)]
    torch.testing.assert_close(prior(x, sigma), torch.stack(by_hand, 2))
    torch.testing.assert_close(prior.mean[:, 2], prior.slice.mean)


def test_differences_and_their_transpose():
    """One worked example: slices 1, 3, 2 of one point differ by 2 and -1."""
    operator = Difference((1, 3, 1))
    assert operator(torch.tensor([1.0, 3.0, 2.0]).reshape(1, 1, 3, 1)).tolist() == [[2.0, -1.0]]
    operator = Difference((2, 4, 3))
    forward = operator(units((2, 4, 3)))
    backward = operator.vjp(torch.zeros(1, 2, 4, 3), torch.eye(operator.count).double()).flatten(1)
    torch.testing.assert_close(backward, forward.T)


def coupled(prior: Sliced, observation: Observation, strength: float) -> GaussianPrior:
    """p(x0) exp(-strength |d x0|^2 / 2) p(y | x0), one Gaussian, by precisions."""
    covariance = prior.error(math.inf).matvec(units()).flatten(1)
    d, a = Difference(SHAPE)(units()).T, observation.whitened().rows(prior.mean).flatten(1)
    precision = torch.linalg.inv(covariance) + strength * d.T @ d + a.T @ a
    spread = torch.linalg.inv(precision)
    shift = a.T @ observation.whitened().residual(prior.mean[None])[0] - strength * d.T @ (d @ prior.mean.flatten())
    return GaussianPrior((prior.mean.flatten() + spread @ shift).reshape(SHAPE), spread)


@pytest.mark.parametrize("coloured", [False, True])
def test_quadratic_coupling_of_gaussian_slices_is_exact(coloured, bures):
    """Each estimate is E[x0 | x, y] of the coupled law, so a sampler ends there at its order; with matrices or not."""
    prior, observation, strength = stack(coloured), readings(), 3.0
    exact = coupled(prior, observation, strength)
    guided = DiffusionMBIR("quadratic", strength)(prior, observation)
    noise = prior.noise.covariance(SHAPE).matvec(units()).flatten(1)
    for sigma in (0.2, 1.5):
        x = normals(3, 4, *SHAPE)
        gain = exact.covariance @ torch.linalg.inv(exact.covariance + sigma**2 * noise)
        wanted = exact.mean.flatten() + (x - exact.mean).flatten(1) @ gain.T
        level = torch.full((4,), sigma, dtype=torch.float64)
        torch.testing.assert_close(guided(x, level).flatten(1), wanted, rtol=0, atol=1e-9)
        residual = guided.observation.residual(prior(x, level))
        iterated = guided.solved(prior(x, level), residual, sigma, dense_limit=0)
        torch.testing.assert_close(iterated.flatten(1), wanted, rtol=0, atol=1e-6)
    errors = [ended(guided, exact, noise, steps, bures) for steps in (10, 20, 40)]
    print(f"quadratic coupling: distance to the one Gaussian {errors}")
    assert 3 < errors[0] / errors[1] < 6
    assert 3 < errors[1] / errors[2] < 6


def ended(guided: Denoiser, exact: GaussianPrior, noise: Tensor, steps: int, bures) -> float:
    """Distance of the law after a second-order flow started at the exact law of level 30."""
    plan = DPMSolverPP(order=2, noise=0.0).plan(DPMSolverPP(order=2).grid(steps, 30.0, 0.05))
    unit = torch.cat([torch.zeros(1, *SHAPE).double(), units()])
    out = run(plan, guided, unit, (0,) * len(unit)).flatten(1)
    matrix = out[1:] - out[0]
    start = exact.covariance + 30.0**2 * noise
    end = GaussianPrior(exact.mean, exact.covariance + 0.05**2 * noise)
    return bures(exact.mean.flatten() @ matrix + out[0], matrix.T @ start @ matrix, end)


@pytest.mark.parametrize("covariance", ["calibrated", "isotropic"])
@pytest.mark.parametrize("strength", [0.3, 3.0])
def test_total_variation_against_a_bounded_least_squares(covariance, strength):
    """z = M^-1 (b - d^T p), p the dual with |p| <= strength: a box-constrained quadratic, solved by an active set."""
    prior, observation, sigma = stack(True), readings(), 0.8
    method = DiffusionMBIR("tv", strength, 3.0, 400, covariance)
    x = normals(4, 3, *SHAPE)
    level = torch.full((3,), sigma, dtype=torch.float64)
    found, denoised = method(prior, observation)(x, level).flatten(1), prior(x, level).flatten(1)
    law = prior.error(sigma) if covariance == "calibrated" else prior.noise.covariance(SHAPE).scaled(sigma**2)
    precision = torch.linalg.inv(law.matvec(units()).flatten(1))
    white = observation.whitened()
    a, d = white.rows(prior.mean).flatten(1), Difference(SHAPE)(units()).T
    spread = torch.linalg.inv(precision + a.T @ a)
    half = torch.linalg.cholesky(spread)
    for row in range(3):
        b = precision @ denoised[row] + a.T @ white.y.double()
        solved = lsq_linear((half.T @ d.T).numpy(), (half.T @ b).numpy(), (-strength, strength), tol=1e-12)
        wanted = spread @ (b - d.T @ torch.from_numpy(solved.x))
        torch.testing.assert_close(found[row], wanted, rtol=0, atol=2e-5)
    jumps = Difference(SHAPE)(found.reshape(3, *SHAPE)).abs()
    flat, before = float((jumps < 1e-4).double().mean()), Difference(SHAPE)(denoised.reshape(3, *SHAPE)).abs()
    print(f"total variation {strength}: {100 * flat:.0f} % of the differences are gone")
    assert float(jumps.sum()) < float(before.sum())
    assert flat > (0.5 if strength > 1 else 0.0)


class Bent(Differentiable):
    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4] ** 3


def test_slices_under_guidance_and_refusals():
    """Draws of a stack: rows by themselves; one slice and bent operators are refused."""
    prior, observation = stack(), readings()
    method = GuidedSampling(DiffusionMBIR(strength=0.5), DPMSolverPP(order=2), steps=6)
    many = method(prior, observation, 3, 1).x
    torch.testing.assert_close(method(prior, observation, 1, 1).x, many[:1], rtol=0, atol=1e-9)
    bent = Observation(observation.y, Bent(), observation.noise)
    with pytest.raises(ConfigError, match="DiffusionMBIR needs a linear"):
        DiffusionMBIR()(prior, bent)
    with pytest.raises(ConfigError, match="at least two slices"):
        DiffusionMBIR()(Sliced(prior.slice, 1), observation)
