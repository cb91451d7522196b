"""The driven flow at Reynolds number 200: its equation, the law of its fields, and its part of the benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.flows import compose
from pdediff.pdes import Problem
from pdediff.stages.benchmarks.posterior_flow import FlowRun, judged, scored, settings
from pdediff.stages.benchmarks.posterior_flow import FlowTrial as Trial
from pdediff.stages.problems import NavierStokes2dRe200, setup_of
from pdediff.stages.problems.navier_stokes2d_re200 import START, cut, moments

SMALL = NavierStokes2dRe200(grid=16, every=4, fields=16, fine=16)

SYMMETRIES: dict[str, Callable[[Tensor], Tensor]] = {
    "along x": lambda w: w.roll(3, -1),
    "a period of the force": lambda w: w.roll(w.shape[-2] // 4, -2),
    "half a turn": lambda w: w.flip(-2, -1).roll((1, 1), (-2, -1)),
    "mirror and half a period": lambda w: -w.flip(-1).roll(1, -1).roll(-(w.shape[-2] // 8), -2),
}
"""w(y, x + a), w(y + pi / 2, x), w(-y, -x) and -w(y + pi / 4, -x), of values on the grid."""


def test_the_laminar_flow_is_exact() -> None:
    """w = a(t) cos 4 y: no transport, a' = -16 a / 200 - 4."""
    problem = replace(SMALL, time=0.5)
    made = setup_of(problem)
    y = torch.from_numpy(problem.coordinates()["y"])
    wave = torch.cos(4 * y)[:, None].expand(16, 16)
    std = float(made.fields(made.prior.mean[None])[0, 0].norm() / made.prior.mean.norm())
    fields = made.fields((2.0 / std * wave)[None, None])[0]
    decay = math.exp(-16 / 200 * 0.5)
    torch.testing.assert_close(fields[0], 2.0 * wave, rtol=0, atol=1e-12)
    torch.testing.assert_close(fields[1], (2.0 * decay - 4 * 200 / 16 * (1 - decay)) * wave, rtol=0, atol=1e-11)
    read = made.readings((2.0 / std * wave)[None, None])[0]
    torch.testing.assert_close(read, fields[1][::4, ::4].flatten(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", SYMMETRIES)
def test_the_flow_and_the_moments_keep_the_symmetries_of_the_force(name: str) -> None:
    """The force without its sign, or along the other axis, breaks one of them."""
    w = START.draw(range(3), 32, 2) * 10
    map = SYMMETRIES[name]

    def solve(w: Tensor) -> Tensor:
        return SMALL.pde.solve(Problem({"initial": w}))["vorticity"][:, 1]

    torch.testing.assert_close(solve(map(w)), map(solve(w)), rtol=0, atol=1e-12)
    for one, other in zip(moments(map(w)), moments(w), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    mean, spectrum = moments(w)
    torch.testing.assert_close(map(mean), mean, rtol=0, atol=1e-13)
    # Parseval: the spectrum is that of the values about the mean.
    assert float(spectrum.mean()) == pytest.approx(float((w - mean).square().mean()), rel=1e-12)


def test_the_start_has_the_published_covariance() -> None:
    """27^2 / (2 pi)^2 (k^2 + 9)^-4 for mode k, of which `deviation` counts those up to 64."""
    k = torch.arange(-64, 65, dtype=torch.float64)
    squared = (k[:, None] ** 2 + k**2).flatten()
    variance = 27**2 / (4 * math.pi**2) * float(((squared[squared > 0] + 9) ** -4).sum())
    assert START.deviation(2) == pytest.approx(math.sqrt(variance), rel=1e-12)


def test_a_cut_field_keeps_its_values_and_low_modes() -> None:
    axis = 2 * math.pi * torch.arange(32, dtype=torch.float64) / 32
    low, high = torch.cos(3 * axis)[:, None] * torch.sin(5 * axis), torch.cos(7 * axis)[:, None].expand(32, 32)
    torch.testing.assert_close(cut((low + high)[None], 16)[0], low[::2, ::2], rtol=0, atol=1e-13)
    torch.testing.assert_close(cut(low[None], 32)[0], low, rtol=0, atol=1e-13)


def test_true_fields_are_simulated_and_have_the_published_size() -> None:
    """Standard deviation 5 (theirs in full); the prior is their Gaussian, cases are not draws of it."""
    problem = replace(SMALL, fine=32)
    fields = problem.simulated(range(12))
    assert float(fields.std()) == pytest.approx(5.0, rel=0.15)
    torch.testing.assert_close(problem.simulated((7,))[0], fields[7], rtol=0, atol=1e-12)
    made = setup_of(SMALL)
    truth = SMALL.case(5).truth
    again = made.fields(made.prior.mean[None] + made.prior.error(math.inf).draw((5,), torch.float64))
    assert float((truth - again[0]).norm()) > float(truth.norm())
    # as many modes as the grid holds: a 16-point grid keeps 11 of 32
    assert int((torch.fft.fft2(fields).abs().mean(0) > 1e-9).sum()) == 11**2 - 1


def test_the_error_of_a_solve_is_small() -> None:
    problem = NavierStokes2dRe200(fine=32)
    w = problem.simulated(range(4))
    coarse, clock = problem.pde, problem.pde.clock
    fine = replace(coarse, clock=replace(clock, step=clock.step / 4))
    ends = [pde.solve(Problem({"initial": w}))["vorticity"][:, 1] for pde in (coarse, fine)]
    error = float((ends[0] - ends[1]).norm() / ends[1].norm())
    print(f"relative error at step {clock.step:g}: {error:.1e}")
    assert error < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": 20}, "grid=20 must be a multiple of 8"),
        ({"every": 3}, "every=3 must divide grid=32"),
        ({"grid": 128}, "fine=64 must be at least grid=128"),
    ],
)
def test_impossible_flows_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NavierStokes2dRe200(**arguments)


def test_noise_is_absolute() -> None:
    assert setup_of(replace(SMALL, noise=2.0)).std.tolist() == [2.0] * 16
    assert setup_of(replace(SMALL, noise=0.0)).std.tolist() == [0.01] * 16


RUN = FlowRun(grid=16, settings=((0.1, 4, 1.0),), cases=2, draws=2, fields=16, fine=16)


def test_the_benchmark_counts_every_solve() -> None:
    """EnKG: members x updates x (levels - 1); EKI: members x updates; and errors are those of the draws."""
    (problem,) = settings(RUN)
    enkg = compose.node("posterior", "enkg") | {"ensemble": 8, "steps": 4}
    assert scored(enkg, problem, 1, 2)["solves"] == 8 * 2 * 3
    found = scored(compose.node("posterior", "eki") | {"ensemble": 8, "updates": 5}, problem, 1, 2)
    assert found["solves"] == 40
    mode = scored(
        compose.node("posterior", "map") | {"randomised": False, "optimiser": {"iterations": 12}}, problem, 1, 2
    )
    assert mode["draw"] == pytest.approx(mode["mean"], rel=1e-12)
    assert mode["draw"] < 1
    assert mode["misfit"] < 1.5
    # an evaluation and a derivative each time
    assert mode["solves"] % 3 == 0


def test_a_row_that_fails_is_told() -> None:
    (problem,) = settings(RUN)
    outcome = judged(Trial("kriging", compose.node("posterior", "kriging"), problem, RUN))
    assert outcome.failed is not None
    assert not outcome.values
    with pytest.raises(ConfigError, match=r"flow.rows needs enkg"):
        FlowRun(rows={"calibrated": {}})
