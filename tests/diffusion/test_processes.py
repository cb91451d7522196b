"""Every noise process: exact inverse, its own SDE, its usual grids, and the kinetic energy of its flow."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pdediff.diffusion import (
    EDM,
    VE,
    DDPMTable,
    Flow,
    GaussianPrior,
    MeanReverting,
    Process,
    SubVP,
    Trig,
    VPCosine,
    VPLinear,
)
from pdediff.errors import ConfigError
from pdediff.samplers import edm_grid, uniform_lambda, uniform_phi, uniform_u

PROCESSES: dict[str, Process] = {
    "vp": VPLinear(),
    "vp falling": VPLinear(12.0, 0.5),
    "vp constant": VPLinear(3.0, 3.0),
    "cosine": VPCosine(),
    "subvp": SubVP(),
    "ve": VE(),
    "edm": EDM(),
    "flow": Flow(),
    "trig": Trig(),
    "mean reverting": MeanReverting(0.1, 4.0, 0.3),
    "ddpm": DDPMTable(),
}
ALL = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def times(process: Process, n: int = 2001) -> Tensor:
    """The whole span, off the nodes of a table, where its drift jumps."""
    low, high = process.span
    return low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.3) / n


@ALL
def test_time_inverts_level(process: Process) -> None:
    low, high = process.span
    t = torch.linspace(low, high, 20001, dtype=torch.float64)
    level = process.level(t)
    assert float((process.time(level) - t).abs().max()) < 1e-12 * high
    assert float((process.level(process.time(level)) / level - 1).abs().max()) < 1e-12
    assert bool((level.diff() > 0).all())


@pytest.mark.parametrize(
    "name", ["vp", "vp falling", "vp constant", "cosine", "subvp", "flow", "trig", "mean reverting"]
)
def test_small_times_keep_all_digits(name: str) -> None:
    """Levels vanish at t = 0: the stable forms are exact there in relative terms too."""
    process = PROCESSES[name]
    t = torch.logspace(-12, -2, 300, dtype=torch.float64)
    assert float((process.time(process.level(t)) / t - 1).abs().max()) < 1e-13


@ALL
def test_level_is_sigma_over_alpha(process: Process) -> None:
    t = times(process)
    assert float((process.sigma(t) / process.alpha(t) / process.level(t) - 1).abs().max()) < 1e-13


@ALL
def test_drift_and_diffusion_are_those_of_the_marginals(process: Process) -> None:
    """f = (log alpha)' and g^2 = (sigma^2)' - 2 f sigma^2, the derivatives by autograd."""
    t = times(process).requires_grad_()
    # Added zeros keep a constant alpha in the graph.
    (drift,) = torch.autograd.grad((process.alpha(t).log() + 0 * t).sum(), t)
    (growth,) = torch.autograd.grad((process.sigma(t) ** 2).sum(), t)
    variance = process.sigma(t).detach() ** 2
    torch.testing.assert_close(process.drift(t).detach(), drift, rtol=1e-12, atol=1e-14)
    expected = growth - 2 * drift * variance
    torch.testing.assert_close(process.diffusion(t).detach(), expected, rtol=1e-10, atol=1e-13)
    assert bool((process.diffusion(t) > 0).all())


def test_worked_numbers() -> None:
    def numbers(process: Process, t: float) -> tuple[float, float]:
        return float(process.alpha(t)), float(process.sigma(t))

    # beta from 0.1 to 20: B(1) = 10.05, B(1/2) = 0.05 + 19.9 / 8 = 2.5375.
    assert float(VPLinear().level(1.0)) == pytest.approx(math.sqrt(math.exp(10.05) - 1), rel=1e-13)
    assert numbers(VPLinear(), 0.5) == pytest.approx((math.exp(-1.26875), math.sqrt(1 - math.exp(-2.5375))), rel=1e-13)
    assert numbers(SubVP(), 0.5) == pytest.approx((math.exp(-1.26875), 1 - math.exp(-2.5375)), rel=1e-13)
    assert numbers(VE(0.01, 100.0), 0.5) == pytest.approx((1.0, 1.0), rel=1e-13)
    assert numbers(EDM(), 3.0) == (1.0, 3.0)
    assert numbers(Flow(), 0.25) == (0.75, 0.25)
    assert numbers(Trig(), math.pi / 6) == pytest.approx((math.sqrt(3) / 2, 0.5), rel=1e-13)
    # Cosine with s = 1: angles from pi / 4 at t = 0 to pi / 2 at t = 1, hence pi / 3 at t = 1 / 3: cos = 1 / 2.
    assert numbers(VPCosine(1.0), 1 / 3) == pytest.approx((math.sqrt(0.5), math.sqrt(0.5)), rel=1e-13)
    assert numbers(VPCosine(), 0.0) == pytest.approx((1.0, 0.0), abs=1e-15)
    # Constant theta = 2 for half a unit of time: alpha = 1 / e.
    expected = (math.exp(-1), 3 * math.sqrt(1 - math.exp(-2)))
    assert numbers(MeanReverting(2.0, 2.0, 3.0), 0.5) == pytest.approx(expected, rel=1e-13)


def test_table_by_hand() -> None:
    """betas 0.1, 0.2, 0.5: alpha^2 = 0.9, 0.72, 0.36; halfway the geometric mean of the levels."""
    table = DDPMTable((0.1, 0.2, 0.5))
    levels = [math.sqrt(1 / a - 1) for a in (0.9, 0.72, 0.36)]
    assert table.level(torch.tensor([0.0, 1.0, 2.0])).tolist() == pytest.approx(levels, rel=1e-14)
    assert float(table.alpha(2.0)) == pytest.approx(0.6, rel=1e-14)
    assert float(table.level(0.5)) == pytest.approx(math.sqrt(levels[0] * levels[1]), rel=1e-14)
    assert float(DDPMTable().level(999.0)) == pytest.approx(157.407, rel=1e-5)  # the table of Ho et al. 2020
    for wrong in ((0.1,), (0.1, 1.0), (0.0, 0.5)):
        with pytest.raises(ConfigError, match="betas"):
            DDPMTable(wrong)


@ALL
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_levels_are_equally_spaced_in_a_power_of_time(process: Process, power: float) -> None:
    low, high = process.span
    levels = process.levels(12, power=power)
    assert len(levels) == 13
    assert all(a > b for a, b in itertools.pairwise(levels))
    ends = [float(process.level(high)), float(process.level(low))]
    assert [levels[0], levels[-1]] == pytest.approx(ends, rel=1e-14)
    root = process.time(torch.tensor(levels, dtype=torch.float64)).clamp(min=0) ** (1 / power)
    spacing = (high ** (1 / power) - low ** (1 / power)) / 12
    assert float((root[:-1].diff() / -spacing - 1).abs().max()) < 1e-9  # the last may be t = 0, a root of rounding


def test_levels_of_known_grids() -> None:
    assert EDM(0.01, 50.0).levels(9, power=7.0) == pytest.approx(edm_grid(50.0, 0.01, 9), rel=1e-12)
    assert VE(0.01, 50.0).levels(9) == pytest.approx(uniform_lambda(50.0, 0.01, 9), rel=1e-12)
    top, low = Flow().level(0.98), Flow().level(0.01)
    assert Flow().levels(9, 0.98, 0.01) == pytest.approx(uniform_u(float(top), float(low), 9), rel=1e-12)
    top, low = Trig().level(1.5), Trig().level(0.02)
    assert Trig().levels(9, 1.5, 0.02) == pytest.approx(uniform_phi(float(top), float(low), 9), rel=1e-12)
    assert VPLinear().levels(4, 1.0, 0.0)[-1] == 0.0  # as a grid that ends without noise


@pytest.mark.parametrize(("n", "t_max", "t_min"), [(0, 0.9, 0.1), (5, 0.1, 0.9), (5, 0.5, -0.1), (5, math.inf, 0.0)])
def test_wrong_grids_are_refused(n: int, t_max: float, t_min: float) -> None:
    with pytest.raises(ConfigError, match="time grid"):
        VPLinear().levels(n, t_max, t_min)


def test_grids_through_infinity_are_refused() -> None:
    for process, t in ((Flow(), 1.0), (VPCosine(), 1.01), (Trig(), 1.6)):
        with pytest.raises(ConfigError, match="no finite noise level"):
            process.levels(5, t)
    with pytest.raises(ConfigError, match="sigma_min < sigma_max"):
        VE(2.0, 1.0)


@ALL
def test_numbers_and_tensors_of_any_shape(process: Process) -> None:
    t = times(process, 6)
    for function in (process.alpha, process.sigma, process.level, process.drift, process.diffusion):
        grid = function(t.reshape(2, 3))
        assert grid.shape == (2, 3)
        assert grid.dtype == torch.float64
        assert [float(function(float(one))) for one in t] == pytest.approx(grid.flatten().tolist(), rel=1e-14)
        assert function(t.float()).dtype == torch.float64
    assert process.time(process.level(t).reshape(3, 2)).shape == (3, 2)


@ALL
def test_kinetic_energy_of_the_flow(process: Process) -> None:
    """E |E[alpha' x0 + sigma' eps | x_t]|^2 = alpha'^2 M + sigma'^2 d - (alpha' - sigma' alpha / sigma)^2 mmse.

    M = E |x0|^2, mmse = E |x0 - D|^2. The velocity is affine for a Gaussian prior, so the left side is exact too: its
    matrix and offset are read off the denoiser. alpha' and sigma' come from drift and diffusion.
    """
    size = 5
    g = torch.Generator().manual_seed(2)
    root = torch.randn(size, size, generator=g, dtype=torch.float64)
    prior = GaussianPrior(torch.randn(1, size, generator=g, dtype=torch.float64), root @ root.T / size)

    def velocity(x: Tensor, a: Tensor, s: Tensor, a_rate: Tensor, s_rate: Tensor) -> Tensor:
        denoised = prior(x / a, (s / a).expand(len(x)))
        return (a_rate * denoised + s_rate * (x - a * denoised) / s).flatten(1)

    for t in times(process, 7):
        alpha, sigma, drift = process.alpha(t), process.sigma(t), process.drift(t)
        alpha_rate = drift * alpha
        sigma_rate = (process.diffusion(t) + 2 * drift * sigma**2) / (2 * sigma)

        terms = (alpha, sigma, alpha_rate, sigma_rate)
        at_mean = velocity(alpha * prior.mean[None], *terms)
        matrix = velocity(alpha * prior.mean + torch.eye(size, dtype=torch.float64)[:, None], *terms) - at_mean
        marginal = alpha**2 * prior.covariance + sigma**2 * torch.eye(size, dtype=torch.float64)
        energy = (at_mean**2).sum() + torch.einsum("ik,ij,jk->", matrix, marginal, matrix)
        second = (prior.mean**2).sum() + prior.covariance.trace()
        mmse = prior.error(float(sigma / alpha)).diagonal().sum()
        mixed = alpha_rate - sigma_rate * alpha / sigma
        expected = alpha_rate**2 * second + sigma_rate**2 * size - mixed**2 * mmse
        # Relative to the terms, which cancel near t = 0, where mixed^2 mmse is nearly sigma'^2 d.
        scale = alpha_rate**2 * second + sigma_rate**2 * size
        assert float((energy - expected).abs() / scale) < 1e-12
