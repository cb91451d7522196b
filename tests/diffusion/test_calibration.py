"""The measured error of a denoiser, with exact denoisers whose error is known."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
import torch

from pdediff.diffusion import (
    CalibratedError,
    CosineCovariance,
    CosineFieldPrior,
    FourierCovariance,
    GaussianFieldPrior,
    LowRankCovariance,
    held_out_errors,
    low_rank,
    matern_field,
    measure,
    stationary,
)

SIGMAS = (0.1, 0.4, 1.5, 6.0)


@cache
def prior() -> GaussianFieldPrior:
    return matern_field((16,), length=0.2, smoothness=1.5)


@cache
def walled() -> CosineFieldPrior:
    """A law whose errors are diagonal in cosines."""
    spectrum = 30 / (1 + torch.arange(16, dtype=torch.float64) ** 2) ** 1.5
    return CosineFieldPrior(torch.zeros(1, 16, dtype=torch.float64), spectrum[None])


def law(periodic: bool) -> GaussianFieldPrior | CosineFieldPrior:
    return prior() if periodic else walled()


def errors(n: int, sigma: float = 0.4, seed: int = 0) -> torch.Tensor:
    fields = prior().error(math.inf).draw(range(10**6 * seed, 10**6 * seed + n), torch.float64)
    return held_out_errors(prior(), fields, prior().noise.sample, seed)(sigma, 0)


def relative(n: int, seed: int) -> float:
    exact = prior().error(0.4).spectrum
    return float(((stationary(errors(n, seed=seed)).spectrum - exact) / exact).square().mean().sqrt())


def test_stationary_converges_at_the_monte_carlo_rate():
    """A mode's mean periodogram over n fields has relative error sqrt(1 / n) (complex) or sqrt(2 / n) (real modes).

    14 complex (7 independent) and 2 real modes: root mean square sqrt((14 + 2 * 2) / 16 / n) = 1.06 / sqrt(n). Over
    four runs of 9 independent modes the mean square is chi-square with 36 degrees: within [0.4, 2.1] of its mean but
    for one case in 10^6.
    """
    for n in (64, 1024):
        mean_square = sum(relative(n, seed) ** 2 for seed in range(4)) / 4 * n
        assert 0.4 * 1.125 < mean_square < 2.1 * 1.125


def test_low_rank_with_all_directions_is_the_sample_covariance():
    e = errors(500)
    flat = e.flatten(1)
    sample = flat.T @ flat / len(flat)
    found = low_rank(e, 15).matvec(torch.eye(16, dtype=torch.float64)[:, None]).flatten(1)
    # One direction of 16 is left to the diagonal: the smallest, below 1 % of the trace.
    assert (found - sample).abs().max() < 0.01 * sample.trace()
    exact = prior().error(0.4).matvec(torch.eye(16, dtype=torch.float64)[:, None]).flatten(1)
    error = ((exact**2 + exact.diagonal()[:, None] * exact.diagonal()) / 500).sqrt()
    assert ((sample - exact).abs() / error).max() < 6  # 256 entries: false alarm 5e-7


@pytest.mark.parametrize(("n", "rank"), [(8, 3), (200, 0), (200, 3), (200, 99)])
def test_low_rank_keeps_the_diagonal(n, rank):
    """Exactly, but for the float32 of storage and the floor of 1e-6 of the mean variance."""
    e = errors(n)
    found, variance = low_rank(e, rank), e.square().mean(0)
    assert len(found.factor) == min(rank, n - 1, 15)
    torch.testing.assert_close(found.diagonal().double(), variance, rtol=3e-6, atol=2e-6 * float(variance.mean()))
    assert found.variance.min() > 0


def test_low_rank_keeps_the_leading_directions():
    """Errors made of two directions and a little noise: rank two explains all but the noise."""
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 2, generator=g, dtype=torch.float64)).Q
    e = (torch.randn(4000, 2, generator=g, dtype=torch.float64) * torch.tensor([3.0, 1.0])) @ basis.T
    e = (e + 0.01 * torch.randn(4000, 16, generator=g, dtype=torch.float64))[:, None]
    found = low_rank(e, 2)
    top = torch.linalg.svdvals(found.factor.double().flatten(1))
    torch.testing.assert_close(top, torch.tensor([3.0, 1.0], dtype=torch.float64), rtol=0.07, atol=0)
    assert float(found.variance.mean()) == pytest.approx(1e-4, rel=0.3)


def test_many_directions_by_subspace_iteration():
    """Above the size of an eigendecomposition: same covariance, for a spectrum that decays as 1 / k^2 in variance."""
    g = torch.Generator().manual_seed(2)
    scale = 1 / torch.arange(1, 561, dtype=torch.float64)
    e = (torch.randn(600, 560, generator=g, dtype=torch.float64) * scale)[:, None]
    found = low_rank(e, 5)
    sample = e.flatten(1).T @ e.flatten(1) / 600
    values, vectors = torch.linalg.eigh(sample)
    best = (vectors[:, -5:] * values[-5:]) @ vectors[:, -5:].T
    kept = found.factor.double().flatten(1)
    torch.testing.assert_close(kept.T @ kept, best, rtol=0, atol=1e-4 * float(values[-1]))
    torch.testing.assert_close(found.diagonal().double().flatten(), sample.diagonal(), rtol=1e-5, atol=2e-8)


def calibrated(periodic: bool, n: int = 4000) -> CalibratedError:
    fields = law(periodic).error(math.inf).draw(range(n), torch.float64)
    at = held_out_errors(law(periodic), fields, law(periodic).noise.sample, 0)
    return measure(at, fields, SIGMAS, rank=15, periodic=periodic)


def exact_interpolant(sigmas: tuple[float, ...] = SIGMAS) -> CalibratedError:
    """The calibration with infinitely many samples: what is left is interpolation."""
    return CalibratedError(sigmas, tuple(prior().error(s) for s in sigmas), prior().error(math.inf))


def test_held_out_errors_do_not_depend_on_the_tile():
    fields = prior().error(math.inf).draw(range(10), torch.float64)
    whole = held_out_errors(prior(), fields, prior().noise.sample, 3)(0.4, 2)
    parts = held_out_errors(prior(), fields, prior().noise.sample, 3, tile=3)(0.4, 2)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-13)
    other = held_out_errors(prior(), fields, prior().noise.sample, 3)(0.4, 1)
    assert not torch.allclose(other, whole, atol=1e-3)  # fresh noise at every level


@pytest.mark.parametrize("periodic", [True, False])
def test_calibration_finds_the_exact_error_at_its_levels(periodic):
    found = calibrated(periodic)
    for sigma in (*SIGMAS, math.inf):
        exact = law(periodic).error(sigma)
        # Trace of 4000 fields: relative error below sqrt(2 / 4000) = 0.022; five of them.
        assert float(found(sigma).diagonal().sum() / exact.diagonal().sum()) == pytest.approx(1, abs=0.11)
        v = torch.eye(16, dtype=torch.float64)[:, None]
        gap = (found(sigma).matvec(v) - exact.matvec(v)).flatten(1).norm() / exact.matvec(v).flatten(1).norm()
        # Frobenius norm of a sample covariance of d = 16 dimensions from n = 4000: at most d / sqrt(n) over sqrt(d)
        # = 0.06 relative for a white error, less for a coloured one; twice that.
        assert gap < 0.13


def directed(n: int, seed: int) -> torch.Tensor:
    """Errors in three directions that are no harmonics, and a little everywhere."""
    shapes = torch.randn(3, 1, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    source = torch.Generator().manual_seed(seed)
    along = torch.randn(n, 3, dtype=torch.float64, generator=source)
    return torch.tensordot(along, shapes, 1) + 0.1 * torch.randn(n, 1, 24, dtype=torch.float64, generator=source)


def test_the_form_is_the_one_under_which_unseen_errors_are_likelier():
    directions = measure(lambda sigma, i: sigma * directed(300, i), directed(300, 9), SIGMAS, rank=5, periodic=False)
    assert all(isinstance(c, LowRankCovariance) for c in (*directions.covariances, directions.prior))
    harmonics = calibrated(False, n=300)
    assert all(isinstance(c, CosineCovariance) for c in (*harmonics.covariances, harmonics.prior))


def test_edges_that_are_known_have_no_error():
    def at(sigma, i):
        return torch.nn.functional.pad(errors(200, sigma, i), (1, 1))

    found = measure(at, at(6.0, 7), SIGMAS, rank=5, periodic=False)
    assert isinstance(found.prior, CosineCovariance)
    for sigma in (0.7, math.inf):
        variance = found(sigma).diagonal()[0]
        assert variance[[0, -1]].tolist() == [0.0, 0.0]
        assert bool((variance[1:-1] > 0).all())
    again = CalibratedError.from_tensors(found.tensors())
    assert again(0.7).shape == (1, 18)


def test_symmetries_are_for_the_fit():
    """Images of the errors enter the covariance: with the mirror image of each it is its own mirror image."""
    found = measure(
        lambda sigma, i: directed(50, i),
        directed(50, 9),
        SIGMAS,
        rank=8,
        periodic=False,
        images=lambda e: torch.cat([e, e.flip(-1)]),
    )
    variance = found(SIGMAS[0]).diagonal()
    torch.testing.assert_close(variance, variance.flip(-1), rtol=1e-4, atol=1e-6)
    own = measure(lambda sigma, i: directed(50, i), directed(50, 9), SIGMAS, rank=8, periodic=False)(SIGMAS[0])
    assert not torch.allclose(own.diagonal(), own.diagonal().flip(-1), rtol=0.1)


def test_log_determinant():
    found = low_rank(errors(40), 6)
    matrix = found.matvec(torch.eye(16, dtype=torch.float64)[:, None]).flatten(1)
    assert found.log_determinant() == pytest.approx(float(torch.linalg.slogdet(matrix)[1]), rel=1e-5)


def test_interpolation_between_levels():
    """The exact Gaussian error given at levels a factor apart and read halfway between.

    The logarithm of a mode's variance is smooth in log sigma, so linear interpolation misses by a multiple of the
    squared spacing h: halving h must quarter the error (a factor 3 to 5 with the next order). The constant is that of
    log(S s^2 / (S + s^2)), whose second derivative in log s is at most 1 in size: h^2 / 8 for h = log 2 is 0.06.
    """
    worst = {}
    for count in (7, 13, 25):
        sigmas = tuple(0.1 * 64 ** (i / (count - 1)) for i in range(count))
        found = exact_interpolant(sigmas)
        worst[count] = 0.0
        for low, high in itertools.pairwise(sigmas):
            exact = prior().error(math.sqrt(low * high)).spectrum
            gap = (found(math.sqrt(low * high)).spectrum - exact).norm() / exact.norm()
            worst[count] = max(worst[count], float(gap))
    print(f"interpolation error of the covariance, levels a factor 2, sqrt 2, 2^(1/4) apart: {worst}")
    assert worst[7] < 0.06
    assert 3 < worst[7] / worst[13] < 5
    assert 3 < worst[13] / worst[25] < 5


def test_interpolation_is_exact_where_it_must_be():
    found = exact_interpolant()
    for i, sigma in enumerate(SIGMAS):
        torch.testing.assert_close(found(sigma).spectrum, found.covariances[i].spectrum, rtol=1e-12, atol=0)
    # Below the first level the error shrinks like sigma^2, the law of any prior with a density.
    torch.testing.assert_close(found(0.05).spectrum, found(0.1).spectrum / 4, rtol=1e-12, atol=0)
    torch.testing.assert_close(found(50.0).spectrum, found(6.0).spectrum, rtol=0, atol=0)
    assert found(math.inf) is found.prior
    # By hand: halfway in log sigma is the geometric mean of the variances of a mode.
    ends = [found(s).spectrum for s in (0.1, 0.4)]
    torch.testing.assert_close(found(0.2).spectrum, (ends[0] * ends[1]).sqrt(), rtol=1e-12, atol=0)
    # Without modes, that of the traces.
    directions = measure(lambda sigma, i: sigma * directed(60, i), directed(60, 9), SIGMAS, rank=5, periodic=False)
    traces = [float(directions(s).diagonal().sum()) for s in (0.1, 0.2, 0.4)]
    assert traces[1] == pytest.approx(math.sqrt(traces[0] * traces[2]), rel=1e-6)


@pytest.mark.parametrize("periodic", [True, False])
def test_tensors_round_trip_also_after_use(periodic):
    found = calibrated(periodic, n=64)
    v = torch.eye(16, dtype=torch.float64)[:, None]
    found(100.0).solve(v)  # fills what the covariances cache
    found(math.inf).solve(v)
    tensors = found.tensors()
    assert all(t.is_contiguous() for t in tensors.values())
    again = CalibratedError.from_tensors(tensors)
    assert again.sigmas == SIGMAS
    kind = FourierCovariance if periodic else CosineCovariance
    for sigma in (0.05, 0.1, 0.7, 6.0, 100.0, math.inf):
        assert isinstance(again(sigma), kind)
        torch.testing.assert_close(again(sigma).matvec(v), found(sigma).matvec(v), rtol=1e-6, atol=1e-6)


def test_channels_that_know_of_each_other_keep_what_they_know():
    """Two equal channels, each diagonal in cosines: no form that forgets their correlation will do."""
    draws = walled().error(math.inf).draw(range(64), torch.float64)
    twice = torch.cat((draws, draws), 1)
    found = measure(lambda sigma, level: 0.1 * sigma * twice, twice, SIGMAS, rank=16, periodic=False)
    assert all(isinstance(c, LowRankCovariance) for c in (*found.covariances, found.prior))
    seen = torch.zeros(1, 2, 16, dtype=torch.float64)
    seen[0, 0, 5] = 1.0
    across = found.prior.matvec(seen)[0]
    torch.testing.assert_close(across[0, 4:7], across[1, 4:7], rtol=1e-3, atol=1e-3)
    one = measure(lambda sigma, level: 0.1 * sigma * draws, draws, SIGMAS, rank=16, periodic=False)
    assert isinstance(one.prior, CosineCovariance)
