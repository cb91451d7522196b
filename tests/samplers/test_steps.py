"""Bands, kernels, hooks, Brownian paths and gradients: what a plan can do beside `Eval` and `Lin`."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pdediff.diffusion import WhiteNoise, matern_field
from pdediff.errors import ConfigError
from pdediff.samplers import (
    DDIM,
    PC,
    Band,
    BrownianPath,
    DPMSolverPP,
    Eval,
    Kick,
    Lin,
    Plan,
    Walk,
    band_of,
    gaussian_start,
    response,
    run,
    uniform_lambda,
)
from pdediff.types import fold, normal

GRID = uniform_lambda(20.0, 0.1, 6)


def test_band_of_counts_periods_per_box() -> None:
    assert band_of((8,)).tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert band_of((4, 4)).tolist() == [[0, 1, 2, 1], [1, 1, 2, 1], [2, 2, 3, 2], [1, 1, 2, 1]]


@pytest.mark.parametrize("grid", [(12,), (8, 9), (4, 6, 5)])
def test_bands_are_the_response_of_fourier_modes(grid: tuple[int, ...]) -> None:
    """A plan with numbers for each band on a field prior: the exact response, mode by mode, noise included."""
    prior = matern_field(grid, length=0.2, smoothness=2.0)
    coefficients = (("x", (0.5, 0.7, 0.2)), ("d", (0.5, 0.3, 0.9)))
    plan = Plan((Eval("d", "x", 2.0), Band("x", coefficients, (0.0, 0.1, 0.4), key=3)), (2.0, 1.0))
    x = gaussian_start(prior, 2.0, range(3))
    out = run(plan, prior, x, (5, 6, 7))
    dims = tuple(range(2, 2 + len(grid)))
    found = response(plan, prior.spectrum[0].flatten().numpy(), band_of(grid).flatten().numpy())
    xi = prior.noise.sample(fold((5, 6, 7), 3), (1, *grid), torch.float64)
    modes = [torch.fft.fftn(v, dim=dims, norm="ortho").reshape(3, -1) for v in (x, xi, out)]
    expected = torch.from_numpy(found.gain) * modes[0] + torch.from_numpy(found.noise[:, 0]) * modes[1]
    assert float((modes[2] - expected).abs().max()) < 1e-12
    with pytest.raises(ConfigError, match="bands of the modes"):
        response(plan, np.ones(3))


def test_plans_refuse_wrong_bands_kernels_and_inputs(oracle: Any) -> None:
    with pytest.raises(ConfigError, match="not finite"):
        Plan((Band("x", (("x", (1.0, 2.0)),), (0.0,)),), (1.0, 0.5))
    with pytest.raises(ConfigError, match="negative"):
        Plan((Kick("x", 0.0, "langevin", (0.1,)),), (1.0, 0.5))
    with pytest.raises(ConfigError, match="negative"):
        Plan((Lin("x", (("x", 1.0),), 1.0, 0, (2.0, 1.0)),), (1.0, 0.5))
    unknown = Plan((Kick("x", 1.0, "gibbs"),), (1.0, 0.5))
    prior = oracle.mixture(4)
    with pytest.raises(ConfigError, match=r"kernel 'gibbs', not in \['langevin'\]"):
        run(unknown, prior, oracle.start_of(prior, 2, 1.0), range(2))
    with pytest.raises(ConfigError, match="no exact response"):
        response(unknown, np.ones(2))
    with pytest.raises(ConfigError, match="starts from a state"):
        response(Plan((Lin("x", (("x", 1.0), ("y", 1.0))),), (1.0, 0.5), ("x", "y")), np.ones(2))


def test_new_steps_survive_json() -> None:
    band = Band("x", (("x", (1.0, 0.1)), ("y", (0.0, 2.0 / 3.0))), (0.0, 0.3), 4)
    steps = (band, Kick("x", 0.5, "langevin", (0.16,), 2, 9), Lin("y", (("x", 1.0),), 0.1, 2, (0.5, 0.75)))
    plan = Plan(steps, (1.0, 0.5), ("x", "y"))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.nfe == 2
    assert plan.stochastic


def test_a_kernel_of_the_caller_is_found_by_name(oracle: Any) -> None:
    """An exact draw of the marginal as a kernel: whatever came before, the law afterwards is right."""
    prior = oracle.mixture(4)

    def renewed(x: Tensor, step: Kick, denoise: Any, noise: Any) -> Tensor:
        return prior.sample(tuple(range(len(x)))) + step.level * noise(step.key)

    plan = Plan((Kick("x", 0.5, "renewed", evaluations=0),), (0.5, 0.5))
    assert plan.nfe == 0
    out = run(plan, prior, torch.zeros(3, 1, 4, dtype=torch.float64), range(3), kernels={"renewed": renewed})
    expected = prior.sample((0, 1, 2)) + 0.5 * normal(fold((0, 1, 2), 0), (1, 4), dtype=torch.float64)
    assert torch.equal(out, expected)


def test_langevin_step_by_hand_and_row_by_row(oracle: Any) -> None:
    prior = oracle.mixture(8)
    x = oracle.start_of(prior, 3, 0.5)
    plan = Plan((Kick("x", 0.5, "langevin", (0.16,), key=2),), (0.5, 0.5))
    out = run(plan, prior, x, (1, 2, 3))
    z = normal(fold((1, 2, 3), 2), (1, 8), dtype=torch.float64)
    score = prior.score(x, torch.full((3,), 0.5, dtype=torch.float64))
    for row in range(3):
        a = 2.0 * (0.16 * float(z[row].norm() / score[row].norm())) ** 2
        expected = x[row] + a * score[row] + math.sqrt(2.0 * a) * z[row]
        assert float((out[row] - expected).abs().max()) < 1e-13


def test_hooks_change_the_denoised_state_in_their_order(oracle: Any) -> None:
    prior = oracle.gaussian()
    x = oracle.start_of(oracle.mixture(6), 3, 20.0)
    plan = PC("v", 2).plan(GRID)
    seen: list[float] = []

    def raised(denoised: Tensor, state: Tensor, sigma: float) -> Tensor:
        seen.append(sigma)
        return denoised + 1.0  # undone by the other hook if that comes second, and only then

    def mean_zero(denoised: Tensor, state: Tensor, sigma: float) -> Tensor:
        return denoised - denoised.mean(-1, keepdim=True)

    def both(state: Tensor, sigma: Tensor) -> Tensor:
        denoised = prior(state, sigma)
        return denoised - denoised.mean(-1, keepdim=True)

    class Changed:
        noise, dtype = prior.noise, prior.dtype
        __call__ = staticmethod(both)

    expected = run(plan, Changed(), x, range(3))  # type: ignore[arg-type]
    hooked = run(plan, prior, x, range(3), hooks=(raised, mean_zero))
    assert float((hooked - expected).abs().max()) < 1e-12
    assert seen == GRID[:-1]
    with pytest.raises(ConfigError, match="flat returned shape"):
        run(plan, prior, x, range(3), hooks=(lambda denoised, state, sigma: denoised, flat))


def flat(denoised: Tensor, x: Tensor, sigma: float) -> Tensor:
    return denoised.flatten(1)


def test_a_slot_may_be_written_from_its_own_value(oracle: Any) -> None:
    """y = 2 x, then y = 3 x + y / 2 = 4 x: the old value is read before the new one takes its place."""
    prior = oracle.gaussian()
    x = oracle.start_of(oracle.mixture(6), 2, 20.0)
    steps = (Lin("y", (("x", 2.0),)), Lin("y", (("x", 3.0), ("y", 0.5))), Lin("x", (("y", 1.0),)))
    assert torch.equal(run(Plan(steps, (1.0, 0.5)), prior, x, range(2)), 4.0 * x)


def test_bands_can_be_used_again_under_autograd() -> None:
    """What a run in inference mode leaves in a cache must not stop a gradient later."""
    prior = matern_field((8,), length=0.2, smoothness=2.0)
    plan = Plan((Band("x", (("x", (0.5, 0.7, 0.31)),), (0.0, 0.0, 0.0)),), (1.0, 0.5))
    x = torch.ones(1, 1, 8, dtype=torch.float64)
    with torch.inference_mode():
        run(plan, prior, x, (0,))
    x = torch.ones(1, 1, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(run(plan, prior, x, (0,)).sum(), x)
    assert torch.allclose(gradient, torch.full_like(gradient, 0.5), rtol=1e-12)  # the mean is in band 0


def test_walk_returns_every_slot(oracle: Any) -> None:
    prior = oracle.gaussian()
    x = oracle.start_of(oracle.mixture(6), 2, 20.0)
    plan = Plan((Lin("x", (("x", 1.0), ("y", -1.0))),), (1.0, 0.5), ("x", "y"))
    out = Walk(prior, range(2))(plan, {"x": x, "y": x / 4})
    assert set(out) == {"x", "y"}
    assert torch.equal(out["x"], 0.75 * x)


def test_increments_are_those_of_one_brownian_path() -> None:
    """Additive over spans to rounding, unit variance, independent over disjoint spans; the law is exact."""
    path = BrownianPath(WhiteNoise(), range(4000), (8,))
    clock = [1e-3, 0.02, 0.5, 0.7, 3.0, 1e4]
    pieces = [path.increment(a, b) * math.sqrt(b - a) for a, b in itertools.pairwise(clock)]
    whole = BrownianPath(WhiteNoise(), range(4000), (8,)).increment(1e-3, 1e4) * math.sqrt(1e4 - 1e-3)
    assert float((sum(pieces) - whole).abs().max()) < 1e-2  # 1e-5 of the clock is rounded, on numbers up to 500
    unit = torch.stack(
        [piece / math.sqrt(b - a) for piece, a, b in zip(pieces, clock, clock[1:], strict=False)]
    ).flatten(1)
    covariance = unit @ unit.T / unit.shape[1]
    assert float((covariance - torch.eye(5)).abs().max()) < 5.0 * math.sqrt(2.0 / unit.shape[1])
    assert float(unit.mean(1).abs().max()) < 5.0 / math.sqrt(unit.shape[1])
    kurtosis = (unit**4).mean(1) / 3.0
    assert float((kurtosis - 1.0).abs().max()) < 5.0 * math.sqrt(96.0 / 9.0 / unit.shape[1])


def test_paths_do_not_depend_on_the_order_of_questions_or_on_other_rows() -> None:
    spans = [(0.5, 0.7), (1e-3, 0.02), (3.0, 1e4), (0.02, 0.5)]
    path = BrownianPath(WhiteNoise(), (7, 8, 9), (5,))
    asked = {span: path.increment(*span) for span in spans}
    for span in reversed(spans):
        alone = BrownianPath(WhiteNoise(), (9,), (5,)).increment(*span)
        assert torch.equal(alone[0], asked[span][2])
    with pytest.raises(ConfigError, match="cannot tell clock"):
        path.increment(1.0, 1.0 + 1e-7)


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_the_same_path_at_every_number_of_steps(oracle: Any, noise: float) -> None:
    """Strong convergence: with one path the end points at n and 4n steps approach each other, with fresh noise not."""
    prior = oracle.mixture(16)
    x = oracle.start_of(prior, 16, 20.0)
    ends = {
        (n, path): run(DPMSolverPP(2, noise).plan(uniform_lambda(20.0, 0.1, n)), prior, x, range(16), path=path)
        for n in (25, 50, 100, 200)
        for path in (True, False)
    }
    gaps = [oracle.rms(ends[2 * n, True] - ends[n, True]) for n in (25, 50, 100)]
    fresh = oracle.rms(ends[200, False] - ends[100, False])
    # Additive noise in x / S: strong order one, each halving halves the gap.
    assert gaps[2] < 0.6 * gaps[1] < 0.36 * gaps[0], gaps
    assert gaps[2] < 0.1 * fresh
    with pytest.raises(ConfigError, match="without a Brownian clock"):
        run(Plan((Kick("x", 1.0, "langevin", (0.1,)),), (1.0, 0.5)), prior, x, range(16), path=True)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_noise_has_the_clock_of_its_small_steps(oracle: Any, eta: float) -> None:
    prior = oracle.mixture(16)
    x = oracle.start_of(prior, 8, 20.0)
    ends = [
        run(DDIM(eta).plan(uniform_lambda(20.0, 0.1, n)), prior, x, range(8), path=True) for n in (50, 100, 200, 400)
    ]
    gaps = [oracle.rms(b - a) for a, b in itertools.pairwise(ends)]
    assert gaps[2] < 0.7 * gaps[1] < 0.49 * gaps[0], gaps


def test_gradient_is_autograds_and_keeps_no_activations(oracle: Any, sampler: Any) -> None:
    """The checkpointed adjoint equals plain autograd through the same steps, for start and condition."""
    prior = oracle.mixture(6)
    plan = sampler.plan(GRID)
    c = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    class Conditioned:
        noise, dtype = prior.noise, prior.dtype
        plain = False

        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            return prior(x, sigma) + c * torch.tanh(x)

    start = oracle.start_of(prior, 3, 20.0)
    x = start.clone().requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        value = (run(plan, Conditioned(), x, range(3)) ** 3).sum()  # type: ignore[arg-type]
    mine = torch.autograd.grad(value, (x, c))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pdediff.samplers.runner.checkpoint", lambda f, *a, **_: f(*a))
        y = start.clone().requires_grad_()
        plain = torch.autograd.grad((run(plan, Conditioned(), y, range(3)) ** 3).sum(), (y, c))  # type: ignore[arg-type]
    for one, other in zip(mine, plain, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10 * float(other.abs().max()))
    # A state or so for each evaluation; a `Band` keeps the numbers of its modes, without the rows.
    numbers = sum(len(step.terms) for step in plan.steps if isinstance(step, Band)) * x[0].numel()
    assert sum(kept) <= (plan.nfe + 6) * x.numel() + numbers
    (only,) = torch.autograd.grad((run(plan, Conditioned(), start, range(3), gradients=True) ** 3).sum(), c)  # type: ignore[arg-type]
    assert torch.equal(only, mine[1])
