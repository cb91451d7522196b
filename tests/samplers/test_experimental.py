"""What the samplers that do not converge do on an exact score, and what their identities promise."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
from scipy.special import expit
from torch import Tensor

from pdediff.diffusion import WhiteNoise, matern_field
from pdediff.errors import ConfigError, NumericalError
from pdediff.samplers import DDIM, Default, DPMSolverPP, band_of, run, uniform_lambda
from pdediff.samplers.experimental import LML, SADA, DualFast, EVODiff, SADAResult, TimeShift, noise_level
from pdediff.samplers.experimental.evaluation import Evaluation
from pdediff.types import normal

ALL = [LML(), EVODiff(), DualFast(), TimeShift(), SADA(max_skips=2)]
STEPS = (40, 80, 160)
GRIDS = [uniform_lambda(80.0, 0.1, 20), [*uniform_lambda(80.0, 0.1, 5), 0.0]]


def end(sampler: Any, denoiser: Any, x: Tensor, sigmas: list[float]) -> Tensor:
    if isinstance(sampler, (DDIM, DPMSolverPP, Default)):
        return run(sampler.plan(sigmas), denoiser, x, range(len(x)))
    out = sampler(denoiser, x, sigmas)
    return out.x if isinstance(out, SADAResult) else out


def error(oracle: Any, sampler: Any, steps: int) -> float:
    prior, x, exact = oracle.reference()
    return oracle.rms(end(sampler, prior, x, uniform_lambda(oracle.SIGMA_MAX, oracle.SIGMA_MIN, steps)) - exact)


@dataclasses.dataclass(frozen=True, eq=False)
class Told:
    """D(x, sigma) = x - sigma e or D itself, from a function of x and sigma."""

    e: Any = None
    d: Any = None
    noise: WhiteNoise = dataclasses.field(default_factory=WhiteNoise)
    dtype: torch.dtype = torch.float64

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma[:, None, None]
        return self.d(x, sigma) if self.e is None else x - sigma * self.e(x, sigma)


@pytest.mark.parametrize("method", ALL, ids=lambda s: type(s).__name__)
class TestContract:
    def test_rows_do_not_see_each_other(self, oracle: Any, method: Any) -> None:
        prior, x, _ = oracle.reference()
        x, kept, grid = x[:5], x[:5].clone(), uniform_lambda(80.0, 0.1, 24)
        together = end(method, prior, x, grid)
        alone = torch.cat([end(method, prior, x[i : i + 1], grid) for i in range(5)])
        assert float((together - alone).abs().max()) < 1e-11  # BLAS may sum another batch in another order
        assert torch.equal(together, end(method, prior, x, grid))
        assert torch.equal(x, kept)

    def test_any_grid_gives_numbers(self, oracle: Any, method: Any) -> None:
        prior, x, _ = oracle.reference()
        for steps, last in itertools.product((2, 3, 7, 25), ([0.1], [0.1, 0.0], [1e-3], [1e-3, 0.0])):
            out = end(method, prior, x[:3], [*uniform_lambda(80.0, last[0], steps), *last[1:]])
            assert bool(torch.isfinite(out).all())
        assert end(method, prior, x.float(), GRIDS[0]).dtype == torch.float32  # the denoiser is called in its own dtype

    def test_point_mass_gives_numbers(self, oracle: Any, method: Any) -> None:
        point = oracle.PointPrior(torch.linspace(-2.0, 3.0, 5, dtype=torch.float64)[None])
        x = point.mean + 30.0 * torch.randn(4, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        out = end(method, point, x, uniform_lambda(30.0, 0.1, 9))
        assert bool(torch.isfinite(out).all())
        if not isinstance(method, (EVODiff, TimeShift)):
            assert float((out - point.mean - (x - point.mean) * (0.1 / 30.0)).abs().max()) < 1e-11

    def test_what_is_wrong_is_named(self, method: Any) -> None:
        x = torch.randn(3, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        grid = uniform_lambda(20.0, 0.1, 10)
        rows = torch.tensor([1.0, math.nan, 1.0], dtype=torch.float64)[:, None, None]
        broken = Told(d=lambda x, sigma: torch.where(sigma > 5.0, x, x * rows[: len(x)]) / (1.0 + sigma**2))
        with pytest.raises(NumericalError, match=r"denoised state is not finite at step 4 of 10") as caught:
            end(method, broken, x, grid)
        assert caught.value.context["rows"] == [1]
        with pytest.raises(NumericalError, match="the state is not finite at step 2 of 2") as caught:
            Evaluation(broken, (9.0, 8.0, 7.0), check=True)(x * rows, 1, rows=torch.tensor([2, 5, 7]))
        assert caught.value.context["rows"] == [5]
        with pytest.raises(ConfigError, match="shape"):
            end(method, Told(d=lambda x, sigma: x[:, :, :4]), x, grid)
        with pytest.raises(ConfigError, match="decrease"):
            end(method, broken, x, grid[::-1])
        assert method.source


class TestLML:
    def test_one_step_by_hand(self) -> None:
        told = {4.0: [0.0, 1.0], 2.0: [1.0, 0.0]}
        e = Told(e=lambda x, sigma: torch.tensor(told[float(sigma[0])], dtype=torch.float64).expand_as(x))
        x = torch.tensor([[[3.0, 1.0]]], dtype=torch.float64)
        out = LML(kappa=0.5, damping=0.5)(e, x, [4.0, 2.0, 1.0])
        # q = (.5, .5), <e, q> = |q|^2 = .5: e - q / 2 = (.75, -.25), of length sqrt(.625); D = (3, -1) - 2 (1, 0).
        expected = torch.tensor([1.0 + 0.75 / math.sqrt(0.625), -1.0 - 0.25 / math.sqrt(0.625)], dtype=torch.float64)
        assert float((out - expected).abs().max()) < 1e-14

    @pytest.mark.parametrize("method", [LML(kappa=0.0, damping=10.0), LML(damping=10.0, below=0.05)])
    def test_without_memory_or_above_its_levels_it_is_ddim(self, oracle: Any, method: LML) -> None:
        prior, x, _ = oracle.reference()
        grid = uniform_lambda(80.0, 0.1, 20)
        assert float((end(method, prior, x, grid) - end(DDIM(), prior, x, grid)).abs().max()) < 1e-11

    def test_small_damping_gets_worse_with_more_steps(self, oracle: Any) -> None:
        assert error(oracle, LML(damping=10.0), 160) > 2.0 * error(oracle, LML(damping=10.0), 10) > 0.5
        slopes = [
            oracle.fitted_slope(STEPS, [error(oracle, LML(damping=d), n) for n in STEPS]) for d in (1e2, 1e3, 1e4)
        ]
        assert slopes[0] < 0.5 < slopes[1] < slopes[2] < 1.05  # measured 0.35, 0.87, 0.97
        assert all(error(oracle, LML(damping=d), 80) > error(oracle, DDIM(), 80) for d in (1e2, 1e3, 1e4))


class TestEVODiff:
    @pytest.mark.parametrize("steps", [3, 21])
    def test_one_step_by_hand(self, steps: int) -> None:
        """Fields of one point, for which projections are quotients: the formulas of the docstring, in numbers."""
        levels = (8.0, 4.0, 2.0, *torch.linspace(1.9, 1.0, steps - 1).tolist()[1:])
        m = {8.0: 1.0, 4.0: 1.5, 2.0: 1.8}
        told = Evaluation(Told(d=lambda x, sigma: torch.full_like(x, m[float(sigma[0])])), levels)
        w = 0.5 * (1.0 - (3.0 / 9.0) ** 2)
        d1 = 1.5 - ((1.0 - w) + w * 1.5)
        d2 = 1.8 - ((1.0 - w) + w * 1.2) * 1.5
        eta = 0.5 * expit(0.5 * min(abs((d2 + d1) / (d2 - d1)), 2.0))
        b = -eta * d1 + (1.0 - eta) * d2
        half = 0.25 / expit(0.25 * ((1.0 - w) + w * 1.5))
        z = min(abs(half * (d1 - b) / d1), 2.0) / 0.5
        zeta = expit(z - 0.5) if steps == 3 else expit((0.5 - z) * expit(1.5 / (0.5 / 0.25) * 1.75))
        x, m0, m1 = (torch.full((1, 1, 1), value, dtype=torch.float64) for value in (3.5, 1.5, 1.0))
        at_two = 0.5 * 3.5 + 0.5 * 1.5 + 0.25 * b / zeta
        assert float(EVODiff()._step(told, x, m0, m1, 1)[0]) == pytest.approx(at_two, abs=1e-14)
        if steps == 3:
            got, own = (float(EVODiff(end)(told.denoiser, 2 * x - m1, levels)) for end in (False, True))
            assert got == pytest.approx(0.5 * at_two + 0.5 * 1.8, abs=1e-14)
            assert own == pytest.approx((1.0 - math.sqrt(2.0)) * got + 0.25 * (1.8 - 1.5), abs=1e-14)  # t / s = 1 / 2

    def test_stalls_at_the_last_level_and_converges_without_its_last_step(self, oracle: Any) -> None:
        own, plain = ([error(oracle, EVODiff(end), n) for n in STEPS] for end in (True, False))
        assert own[-1] == pytest.approx(oracle.SIGMA_MIN * oracle.rms(oracle.reference()[2]), rel=0.05)
        assert oracle.fitted_slope(STEPS, own) < 0.15
        assert oracle.fitted_slope(STEPS, plain) == pytest.approx(1.0, abs=0.15)
        assert all(e > 5.0 * error(oracle, DPMSolverPP(2), n) for n, e in zip(STEPS, plain, strict=True))


def failing(oracle: Any, share: float) -> Told:
    prior, _, _ = oracle.reference()  # too much noise predicted, but at large sigma
    return Told(e=lambda x, sigma: (x - prior(x, sigma[:, 0, 0])) / sigma * (1.0 + share / (1.0 + sigma**2)))


class TestDualFast:
    def test_no_share_is_ddim_to_the_last_bit(self, oracle: Any) -> None:
        prior, x, _ = oracle.reference()
        assert all(torch.equal(DualFast(0.0)(prior, x, grid), end(DDIM(), prior, x, grid)) for grid in GRIDS)

    def test_one_step_by_hand(self) -> None:
        e = Told(e=lambda x, sigma: torch.where(sigma > 3.0, 1.0, 2.0).expand_as(x))
        x = torch.full((1, 1, 1), 10.0, dtype=torch.float64)
        # 10 - 2 * 1, then e~ = .75 * 2 + .25 * 1 = 1.75 over a step of 1
        assert float(DualFast(0.25)(e, x, [4.0, 2.0, 1.0])) == pytest.approx(10.0 - 2.0 - 1.75, abs=1e-14)

    def test_exact_score_stalls_in_proportion_to_the_share(self, oracle: Any) -> None:
        prior, x, _ = oracle.reference()
        moved = []
        for grid in (uniform_lambda(80.0, 0.1, n) for n in (80, 320)):
            base = end(DDIM(), prior, x, grid)
            moved.append([oracle.rms(DualFast(c)(prior, x, grid) - base) for c in (0.05, 0.1)])
            assert moved[-1][1] == pytest.approx(2.0 * moved[-1][0], rel=0.05)
        assert moved[1] == pytest.approx(moved[0], rel=0.05)  # does not fall with the steps
        assert all(error(oracle, DualFast(0.025), n) > error(oracle, DDIM(), n) for n in (5, 10, 20, *STEPS))
        # Away from the first prediction is an extrapolation: it helps DDIM while steps are few.
        assert error(oracle, DualFast(-0.1), 10) < 0.8 * error(oracle, DDIM(), 10)
        assert error(oracle, DualFast(-0.1), 160) > 3.0 * error(oracle, DDIM(), 160)

    def test_error_of_a_network_is_mended_or_made_worse_by_its_sign(self, oracle: Any) -> None:
        _, x, exact = oracle.reference()
        grid = uniform_lambda(80.0, 0.1, 20)
        nets = [failing(oracle, share) for share in (-0.3, 0.3)]
        mixed, plain = ([oracle.rms(DualFast(c)(net, x, grid) - exact) for net in nets] for c in (0.05, 0.0))
        assert 0.90 < mixed[0] / plain[0] < 0.96  # too little noise: 7 % of the error, no more
        assert mixed[1] / plain[1] > 1.05


class TestTimeShift:
    def test_no_window_or_all_cut_off_is_ddim_to_the_last_bit(self, oracle: Any) -> None:
        prior, x, _ = oracle.reference()
        for sampler, grid in itertools.product((TimeShift(0.0), TimeShift(0.3, cutoff=80.0)), GRIDS):
            assert torch.equal(sampler(prior, x, grid), end(DDIM(), prior, x, grid))

    def test_level_by_hand(self) -> None:
        x = torch.tensor([[[-3.0, 0.0, 3.0]], [[-9.0, 0.0, 9.0]], [[0.0, 0.0, 0.0]]], dtype=torch.float64)
        got = TimeShift(window=math.log(2.0), variance=5.0).level(x, 2.5)  # variances 9, 81, 0
        assert got.tolist() == pytest.approx([2.0, 5.0, 1.25], rel=1e-14)

    def test_shift_falls_with_the_root_of_the_field_size(self, oracle: Any) -> None:
        """log(s / sigma) has standard deviation (1 + v / sigma^2) / sqrt(2 d) for white data of variance v."""
        rows, sigma = 2000, 3.0
        for d in (256, 1024, 4096):
            x = math.hypot(1.0, sigma) * normal(range(rows), (1, d), dtype=torch.float64)
            shift = (TimeShift(window=1.0).level(x, sigma) / sigma).log()
            # Standard error 1 / sqrt(2 rows) = 1.6 %; five of them and the curvature of the logarithm.
            assert oracle.rms(shift) == pytest.approx((1.0 + 1.0 / sigma**2) / math.sqrt(2 * d), rel=0.09)

    def test_exact_score_stalls(self, oracle: Any) -> None:
        errors = [error(oracle, TimeShift(0.03), n) for n in STEPS]
        assert oracle.fitted_slope(STEPS, errors) < 0.1
        assert errors[-1] > 5.0 * error(oracle, DDIM(), STEPS[-1])


class TestNoiseLevel:
    @pytest.mark.parametrize(("grid", "band"), [((128,), 24), ((24, 25), 8)])
    def test_noise_on_a_smooth_field_within_its_chi_square_error(self, grid: tuple[int, ...], band: int) -> None:
        rows, sigma = 400, 0.7
        prior = matern_field(grid, length=0.3, smoothness=4.0)
        high = band_of(grid) >= band
        assert float(prior.spectrum[0][high].max()) < 1e-4 * sigma**2
        noise, white = WhiteNoise().sample(range(2 * rows), (1, *grid), torch.float64).split(rows)
        x = sigma * noise + prior.error(math.inf).sqrt(white)
        m = high.sum().item()
        z = ((noise_level(x, band) / sigma) ** 2 - 1.0) * math.sqrt(m / 2.0)
        assert abs(float(z.mean())) < 5.0 / math.sqrt(rows)  # five standard errors
        assert float(z.pow(2).mean()) == pytest.approx(1.0, abs=5.0 * math.sqrt((2.0 + 12.0 / m) / rows))
        assert float(noise_level(x, 0).pow(2).mean()) > 2.0 * sigma**2  # all modes: the signal counts as noise

    def test_one_mode_by_hand(self) -> None:
        x = torch.tensor([[[1.0, -1.0] * 4]], dtype=torch.float64)
        assert noise_level(3.0 * x, 4).tolist() == pytest.approx([3.0 * math.sqrt(8.0)])
        assert noise_level(3.0 * x, 3).tolist() == pytest.approx([3.0 * math.sqrt(8.0 / 3.0)])
        with pytest.raises(ConfigError, match="wave number 5"):
            noise_level(x, 5)


class EveryOther(SADA):
    def smooth(self, after: Tensor, *others: Any) -> Tensor:
        return torch.ones(len(after), dtype=torch.bool)


class TestSADA:
    @pytest.mark.parametrize("method", [SADA(max_skips=0), SADA(start=0.5, stop=0.5)])
    def test_without_skips_it_is_the_base_solver(self, oracle: Any, method: SADA) -> None:
        prior, x, _ = oracle.reference()
        for grid in GRIDS:
            out = method(prior, x, grid)
            assert float((out.x - end(DPMSolverPP(2), prior, x, grid)).abs().max()) < 1e-11
            assert out.evaluations.tolist() == [len(grid) - 1] * len(x)

    @pytest.mark.parametrize("skips", [1, 2, 4])
    def test_polynomials_are_extrapolated_exactly(self, skips: int) -> None:
        cubic = Told(d=lambda x, sigma: (-sigma.log()) ** 3 - 2.0 * sigma.log() + torch.zeros_like(x))
        x = torch.tensor([[[5.0, -3.0]], [[1.0, 2.0]]], dtype=torch.float64)
        grid = uniform_lambda(20.0, 0.1, 30)
        out = EveryOther(max_skips=skips, points=4, start=0.0, stop=1.0)(cubic, x, grid)
        assert float((out.x - end(DPMSolverPP(2), cubic, x, grid)).abs().max()) < 1e-9  # grows with the skips
        # The first four levels, then one in skips + 1 of the other 26.
        assert out.evaluations.tolist() == [4 + 26 // (skips + 1)] * 2

    def test_rows_are_counted_as_the_denoiser_sees_them(self, oracle: Any) -> None:
        prior, x, _ = oracle.reference()
        seen = []
        spy = Told(d=lambda x, sigma: (seen.append(len(x)), prior(x, sigma[:, 0, 0]))[1])
        out = SADA(max_skips=2)(spy, x, uniform_lambda(80.0, 0.1, 80))
        assert sum(seen) == int(out.evaluations.sum())
        assert 80 / 3 <= int(out.evaluations.min()) < int(out.evaluations.max()) < 80  # rows decide for themselves

    def test_criterion_by_hand(self) -> None:
        slopes = [torch.full((1, 1, 1), y) for y in (3.0, 2.0, 0.0)]  # second difference -1; 5/8 3 + 3/4 2 = 27/8
        x, after = torch.full((1, 1, 1), 10.0), torch.tensor([[[4.5]], [[4.7]]])
        # s = 0: z = 10 / 4, z^ = 2.5 - (27/8) log(4 / 3), 3 z^ = 4.587
        assert SADA(s=1e-9).smooth(after, x, slopes, 4.0, 3.0).tolist() == [False, True]

    def test_criterion_has_no_unit(self, oracle: Any) -> None:
        small, large, c = oracle.mixture(8), oracle.mixture(8, scale=37.0), 37.0
        x = oracle.start_of(small, 4, 20.0)
        a = SADA()(small, x, uniform_lambda(20.0, 0.05, 30))
        b = SADA(s=c)(large, c * x, uniform_lambda(20.0 * c, 0.05 * c, 30))
        assert torch.equal(a.evaluations, b.evaluations)
        assert float((c * a.x - b.x).abs().max()) < 1e-9 * c

    def test_against_fewer_steps_of_the_base_solver(self, oracle: Any) -> None:
        prior, x, exact = oracle.reference()

        def cost(sampler: SADA, steps: int) -> tuple[float, int]:
            out = sampler(prior, x, uniform_lambda(80.0, 0.1, steps))
            return oracle.rms(out.x - exact), math.ceil(float(out.evaluations.double().mean()))

        for skips, steps, low, high in ((2, 10, 3.0, 9.0), (2, 20, 1.4, 2.4), (2, 40, 0.4, 0.7), (4, 160, 0.4, 0.8)):
            got, evaluations = cost(SADA(max_skips=skips), steps)
            assert low < got / error(oracle, DPMSolverPP(2), evaluations) < high
            assert got > 5.0 * error(oracle, Default(), evaluations)
        assert oracle.fitted_slope(STEPS, [cost(SADA(max_skips=2), n)[0] for n in STEPS]) > 1.75
        blind, looking = (cost(kind(max_skips=1), 40) for kind in (EveryOther, SADA))
        assert blind[0] < looking[0]
        assert blind[1] < looking[1]
