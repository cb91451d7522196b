"""Log densities along the probability flow, against the closed forms of mixtures and Gaussian fields."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pdediff.diffusion import (
    EDM,
    AdaptedDenoiser,
    Affine,
    GaussianFieldPrior,
    GaussianRandomField,
    WhiteNoise,
    isotropic,
    matern_field,
)
from pdediff.errors import ConfigError, NumericalError
from pdediff.samplers import log_prob

LOW, HIGH = 0.01, 157.0


def problem(oracle: Any, rows: int = 8) -> tuple[Any, Tensor, Tensor]:
    """A mixture in eight dimensions, draws of its lowest level, and their exact log density."""
    prior = oracle.mixture(8)
    x = oracle.start_of(prior, rows, LOW)
    return prior, x, prior.log_prob(x, torch.full((rows,), LOW, dtype=torch.float64))


def test_order_four_on_a_mixture(oracle: Any) -> None:
    prior, x, exact = problem(oracle)
    steps, errors = (25, 50, 100, 200), []
    for n in steps:
        found = log_prob(prior, x, sigma_min=LOW, sigma_max=HIGH, steps=n, terminal=prior.log_prob)
        assert bool((found.standard_error == 0).all())
        errors.append(float((found.value - exact).abs().max()))
    assert abs(oracle.fitted_slope(steps[1:], errors[1:]) - 4) < 0.5, errors
    # RK4 on x itself would leave 9e-3, 7e-4, 4e-5 and 3e-6: a state that grows with sigma costs a factor of 300.
    assert all(error < bound for error, bound in zip(errors, (1e-4, 4e-6, 2e-7, 1e-8), strict=True)), errors


def test_gaussian_terminal_law_is_close_for_a_mixture_and_closer_from_further_up(oracle: Any) -> None:
    prior, x, exact = problem(oracle)
    errors = []
    for top in (10.0, 40.0, HIGH):
        found = log_prob(prior, x, sigma_min=LOW, sigma_max=top, steps=80)
        errors.append(float((found.value - exact).abs().max()))
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 3e-5


@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("grid", [(9,), (4, 4)], ids=str)
def test_gaussian_fields_in_closed_form(grid: tuple[int, ...], coloured: bool) -> None:
    """The default terminal law is exact here; the noise may be coloured, the divergence is the same."""
    noise = GaussianRandomField(0.1, 2.0) if coloured else WhiteNoise()
    spectrum = matern_field(grid, length=0.3, smoothness=2.0, std=0.7).spectrum
    prior = GaussianFieldPrior(torch.ones(1, *grid, dtype=torch.float64), spectrum, noise)
    x = prior.mean + prior.error(math.inf).draw((1, 2, 3), torch.float64)
    level = torch.full((3,), 0.1, dtype=torch.float64)
    found = log_prob(prior, x, sigma_min=0.1, sigma_max=50.0, steps=100).value
    torch.testing.assert_close(found, prior.log_prob(x, level), rtol=0, atol=3e-6)


def test_random_traces_are_unbiased_and_know_their_error(oracle: Any) -> None:
    prior, x, _ = problem(oracle, 16)
    levels = {"sigma_min": 0.1, "sigma_max": 40.0, "steps": 12}
    exact = log_prob(prior, x, **levels).value
    found = log_prob(prior, x, **levels, probes=256, seeds=range(100, 116))
    deviation = (found.value - exact) / found.standard_error
    assert float(deviation.abs().max()) < 6  # sixteen rows at six standard errors, fixed seeds: 3e-8
    # The 16 squares average one: 0.25 to 2.4 leaves out 1e-4 on either side.
    assert 0.25 < float((deviation**2).mean()) < 2.4
    few = log_prob(prior, x, **levels, probes=16, seeds=range(100, 116))
    assert 2.5 < float(few.standard_error.mean() / found.standard_error.mean()) < 6  # 4 for sixteen times the probes


def test_rows_are_independent_of_the_batch(oracle: Any) -> None:
    prior, x, _ = problem(oracle, 5)
    levels = {"sigma_min": 0.1, "sigma_max": 40.0, "steps": 6}
    for probes in (None, 4):
        together = log_prob(prior, x, **levels, probes=probes, seeds=(5, 6, 7, 8, 9))
        order = [3, 0]
        alone = log_prob(prior, x[order], **levels, probes=probes, seeds=(8, 5))
        torch.testing.assert_close(alone.value, together.value[order], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone.standard_error, together.standard_error[order], rtol=1e-9, atol=1e-13)
    other = log_prob(prior, x, **levels, probes=4, seeds=(15, 16, 17, 18, 19))
    assert bool((other.value != together.value).all())  # probes come from the seeds


def test_shift_and_unit_of_the_field(oracle: Any) -> None:
    """p(a + c x) = p(x) / c^d, at any number of steps: no unit is built in."""
    prior, x, _ = problem(oracle)
    plain = log_prob(prior, x, sigma_min=0.1, sigma_max=40.0, steps=10).value
    moved = Affine(prior, torch.tensor(30.0), 0.02)
    found = log_prob(moved, 30.0 + 0.02 * x, sigma_min=0.002, sigma_max=0.8, steps=10).value
    torch.testing.assert_close(found, plain - 8 * math.log(0.02), rtol=0, atol=1e-9)


class Network(nn.Module):
    """Convolutions and group normalisation, random: layers without forward derivatives or batched backward ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv1d(8, 1, 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(x / (1 + t[:, None, None] ** 2).sqrt())


def test_exact_trace_of_a_network() -> None:
    """One RK4 step from level 1 to 2, by hand with full Jacobian matrices; the network keeps its gradients."""
    torch.manual_seed(0)
    network = Network().double()
    mean = torch.zeros(1, 6, dtype=torch.float64)
    prior = AdaptedDenoiser(network, EDM(), "x0", mean, WhiteNoise(), lambda sigma: isotropic((1, 6), 1.0))
    x = torch.randn(2, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def slope(x: Tensor, log_sigma: float) -> tuple[Tensor, Tensor]:
        level = torch.full((1,), math.exp(log_sigma), dtype=torch.float64)
        rows = [torch.autograd.functional.jacobian(lambda z: prior(z, level), row[None]) for row in x]
        traces = torch.stack([row.reshape(6, 6).trace() for row in rows])  # type: ignore[union-attr]
        with torch.no_grad():
            return x - prior(x, level.expand(len(x))), 6 - traces

    h, scale = math.log(2), lambda s: math.hypot(1.0, math.exp(s))

    def rate(z: Tensor, s: float) -> tuple[Tensor, Tensor]:
        f, divergence = slope(scale(s) * z, s)
        return f / scale(s) - z * math.exp(2 * s) / scale(s) ** 2, divergence

    z = x / scale(0.0)
    k1, d1 = rate(z, 0.0)
    k2, d2 = rate(z + h / 2 * k1, h / 2)
    k3, d3 = rate(z + h / 2 * k2, h / 2)
    k4, d4 = rate(z + h * k3, h)
    end = scale(h) * (z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    normal = -0.5 * ((end**2).flatten(1).sum(1) / 5 + 6 * math.log(2 * math.pi * 5))  # N(0, 1 + 2^2)
    expected = normal + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    found = log_prob(prior, x, sigma_min=1.0, sigma_max=2.0, steps=1)
    torch.testing.assert_close(found.value, expected, rtol=1e-11, atol=1e-11)
    assert not found.value.requires_grad
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_wrong_calls_and_broken_denoisers(oracle: Any) -> None:
    prior, x, _ = problem(oracle, 2)
    for wrong in ({"sigma_min": 0.0}, {"sigma_min": 90.0}, {"sigma_min": 0.1, "steps": 0}):
        with pytest.raises(ConfigError, match="sigma_max > sigma_min > 0"):
            log_prob(prior, x, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least two probes"):
        log_prob(prior, x, sigma_min=0.1, probes=1, seeds=(1, 2))
    with pytest.raises(ConfigError, match="one seed for each of 2 rows, got 1"):
        log_prob(prior, x, sigma_min=0.1, probes=4, seeds=(1,))
    with pytest.raises(NumericalError, match="not finite"):
        log_prob(prior, x * math.nan, sigma_min=0.1, steps=2)
