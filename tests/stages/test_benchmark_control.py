"""Part `control`: its solver, control as conditioning against Riccati's equation, and a tiny run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pdediff.config import build
from pdediff.diffusion import GaussianPrior
from pdediff.errors import ConfigError
from pdediff.flows import compose
from pdediff.models.wavelets import Wavelet
from pdediff.posterior import CalibratedGuidance, ExactGaussian, GuidedSampling
from pdediff.runtime import Runtime
from pdediff.samplers import DPMSolverPP
from pdediff.stages.benchmarks import Forecasts
from pdediff.stages.benchmarks.base import Measurement
from pdediff.stages.benchmarks.forecast_control import COLUMNS
from pdediff.stages.benchmarks.forecast_control_prior import Ends, Synthesis, TrajectoryPrior, controls, joined, tilted
from pdediff.stages.benchmarks.forecast_control_setting import ControlFit, ControlSearch, ControlSetting

N = 8


def inner(points: int) -> Tensor:
    return torch.arange(1, points + 1, dtype=torch.float64) / (points + 1)


def test_a_steady_state_is_kept_by_its_force() -> None:
    """u u_x - nu u_xx = w for u = sin(pi x) + sin(2 pi x) / 2, walls and all."""
    setting = ControlSetting(points=63, frames=5, fine=1)
    x, pi = inner(63), math.pi
    u, slope = (pi * x).sin() + 0.5 * (2 * pi * x).sin(), pi * ((pi * x).cos() + (2 * pi * x).cos())
    curve = -(pi**2) * ((pi * x).sin() + 2 * (2 * pi * x).sin())
    force = (u * slope - setting.equation.viscosity * curve).expand(1, 4, 63)
    states = setting.solve(u[None], force)
    assert states.shape == (1, 5, 63)
    assert float((states - u).abs().max()) < 1e-9


def test_a_moving_solution_with_forces_at_half_intervals_is_met_to_second_order() -> None:
    """u = (1 + t) sin(pi x): w = sin(pi x) (1 + nu pi^2 (1 + t)) + (1 + t)^2 pi sin(pi x) cos(pi x)."""
    x, nu = inner(31), ControlSetting().equation.viscosity
    wave, drift = (math.pi * x).sin(), 0.5 * math.pi * (2 * math.pi * x).sin()
    errors = []
    for frames in (9, 17, 33):
        grown = 1 + (torch.arange(frames - 1, dtype=torch.float64)[:, None] + 0.5) / (frames - 1)
        force = wave * (1 + nu * math.pi**2 * grown) + grown**2 * drift
        setting = ControlSetting(points=31, frames=frames, fine=1)
        errors.append(float((setting.solve(wave[None], force[None])[0, -1] - 2 * wave).abs().max()))
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert slopes == pytest.approx([2.0, 2.0], abs=0.1)


def test_drawn_trajectories_are_those_of_finite_differences() -> None:
    """The scheme of the released generator: central differences of u^2 / 2, Euler steps, walls; error O(h^2 + dt)."""
    setting = ControlSetting(points=15, frames=9, fine=16, step=1.5e-3)
    start, force = setting.draw((3, 4))
    ours = setting.solve(start, force)[:, -1].numpy()
    cells, ratio, steps = 16 * 24, 24, 8000
    x, nodes = np.arange(cells + 1) / cells, np.arange(17) / 16
    h, dt = 1 / cells, 1 / steps
    for row in range(2):
        u = np.interp(x, nodes, np.pad(start[row].numpy(), 1))
        for n in range(steps):
            w = np.interp(x, nodes, np.pad(force[row, n * 8 // steps].numpy(), 1, mode="edge"))
            flux = (u[2:] ** 2 - u[:-2] ** 2) / (4 * h)
            u[1:-1] += dt * (0.01 * (u[2:] - 2 * u[1:-1] + u[:-2]) / h**2 - flux + w[1:-1])
        assert np.abs(u[ratio:-1:ratio] - ours[row]).max() < 0.01 * np.abs(ours[row]).max()


def test_data_are_keyed_by_seed_and_cost_by_hand() -> None:
    setting = ControlSetting(points=4, frames=4, energy=0.5)
    start, force = setting.draw((7, 8, 9))
    again = setting.draw((9,))
    assert torch.equal(start[2:], again[0])
    assert torch.equal(force[2:], again[1])
    end, target = torch.tensor([[1.0, 2.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    miss, energy = setting.cost(end, target, 2 * torch.ones(1, 3, 4))
    assert (float(miss), float(energy)) == (1.25, 2.0)


def test_readings_are_linear_with_their_adjoint() -> None:
    g = torch.Generator().manual_seed(0)
    c = torch.randn(2, 8, 4, 4, generator=g, dtype=torch.float64)
    ends, synthesis = Ends(), Synthesis(Wavelet("db2"))
    x = synthesis(c)
    y = ends(x)
    assert torch.equal(y[:, :8], x[:, 0, 0])
    assert torch.equal(y[:, 8:16], x[:, 0, -1])
    assert torch.equal(y[:, 16:].reshape(2, 7, 8), x[:, 1, :-1])
    w = torch.randn(y.shape, generator=g, dtype=torch.float64)
    assert float((y * w).sum()) == pytest.approx(float((c * synthesis.vjp(c, ends.vjp(x, w))).sum()), abs=1e-11)


def linear_model(wavelet: Wavelet, variance: float) -> tuple[TrajectoryPrior, Tensor, Tensor]:
    """u_{k+1} = A u_k + B w_k with u_0 ~ N(0, 1), w ~ N(0, variance), in normalised coefficients; A and B."""
    g = torch.Generator().manual_seed(5)
    a = 0.95 * torch.linalg.qr(torch.randn(N, N, generator=g, dtype=torch.float64)).Q
    b = torch.eye(N, dtype=torch.float64) + 0.2 * torch.randn(N, N, generator=g, dtype=torch.float64)
    free = torch.eye(N + (N - 1) * N, dtype=torch.float64)
    start, force = free[:, :N], variance**0.5 * free[:, N:].reshape(-1, N - 1, N)
    states = [start]
    for w in force.unbind(1):
        states.append(states[-1] @ a.T + w @ b.T)
    shape = wavelet.shape((2, N, N))
    scale = torch.tensor([0.7, 1.6], dtype=torch.float64)[:, None, None]
    spread = wavelet(joined(torch.stack(states, 1), force) / scale).flatten(1)
    mean = torch.zeros(shape, dtype=torch.float64)
    return TrajectoryPrior(GaussianPrior(mean, spread.T @ spread), wavelet, scale), a, b


def riccati(a: Tensor, b: Tensor, start: Tensor, target: Tensor, miss: float, energy: float) -> Tensor:
    """min miss |u_T - target|^2 + energy sum |w|^2 by dynamic programming: value u^T P u - 2 p^T u + const."""
    eye = torch.eye(N, dtype=torch.float64)
    p, q, rules = miss * eye, miss * target, []
    for _ in range(N - 1):
        inverse = torch.linalg.inv(energy * eye + b.T @ p @ b)
        gain, push = inverse @ b.T @ p @ a, inverse @ b.T @ q
        rules.append((gain, push))
        p, q = a.T @ p @ (a - b @ gain), (a - b @ gain).T @ q
    u, out = start, []
    for gain, push in reversed(rules):
        out.append(push - gain @ u)
        u = a @ u + b @ out[-1]
    return torch.stack(out)


@pytest.mark.parametrize("wavelet", [Wavelet("haar"), Wavelet("db2", 2)])
def test_the_tilted_prior_of_a_linear_system_is_its_optimal_control(wavelet: Wavelet) -> None:
    """Riccati with the weights of J and the one the prior of w adds; by Gaussian conditioning and by guidance."""
    prior, a, b = linear_model(wavelet, 4.0)
    setting, search = ControlSetting(points=N, frames=N, energy=0.3), ControlSearch(tilt=40.0, thrift=1.0, known=1e-4)
    start, target = a[0].clone(), 2 * b[1]
    forces = (N - 1) * N
    expected = riccati(a, b, start, target, 40 / N, 40 * 0.3 / forces + 1 / (2 * 4.0))
    seen = prior.observation(None, start, target, tilted(setting, search))
    exact = prior.fields(ExactGaussian().mean(prior.denoiser, seen)[None])[0]
    assert float((exact[1, :-1] - expected).abs().max()) < 1e-6
    assert torch.allclose(exact[1, -1], exact[1, -2], atol=1e-9)
    guided = CalibratedGuidance(local=False)(prior.denoiser, seen)
    z = guided(torch.zeros(1, *prior.denoiser.shape, dtype=torch.float64), torch.tensor([1e5], dtype=torch.float64))
    assert float((prior.fields(z)[0, 1, :-1] - expected).abs().max()) < 1e-5
    assert float(expected.abs().max()) > 0.1


def test_the_sampled_control_is_the_optimal_one_up_to_its_spread() -> None:
    """Mean of 64 draws of the guided sampler for two cases; errors beyond 6 standard errors are a fault."""
    wavelet = Wavelet("haar")
    prior, a, b = linear_model(wavelet, 4.0)
    setting = ControlSetting(points=N, frames=N, energy=0.3)
    search = replace(ControlSearch(), tilt=4000.0, thrift=1.0, known=1e-3, draws=64)
    start, target = torch.stack([a[0], a[3]]), torch.stack([2 * b[1], b[4]])
    posterior = GuidedSampling(CalibratedGuidance(local=False), DPMSolverPP(order=2), 60, 80.0, 0.01)
    force, end = controls(prior, posterior, tilted(setting, search), search.draws, (start, target), 0)
    forces, spread = (N - 1) * N, math.sqrt(1 / (2 * 4000 * 0.3 / ((N - 1) * N)))
    for case in range(2):
        expected = riccati(a, b, start[case], target[case], 4000 / N, 4000 * 0.3 / forces + 1 / 8)
        assert float((force[case] - expected).abs().max()) < 6 * spread / 8
        assert float((end[case] - target[case]).abs().max()) < 0.15


def test_the_tilt_leads_to_the_minimum_of_j_at_first_order() -> None:
    """Control of weight tilt minus the control of J alone falls as 1 / tilt."""
    prior, a, b = linear_model(Wavelet("haar"), 1.0)
    setting = ControlSetting(points=N, frames=N, energy=0.3)
    start, target = a[0].clone(), 2 * b[1]
    best = riccati(a, b, start, target, 1 / N, 0.3 / ((N - 1) * N))
    gaps = []
    for tilt in (1e3, 1e4, 1e5):
        seen = prior.observation(
            None, start, target, tilted(setting, replace(ControlSearch(), tilt=tilt, thrift=1.0, known=1e-5))
        )
        found = prior.fields(ExactGaussian().mean(prior.denoiser, seen)[None])[0, 1, :-1]
        gaps.append(float((found - best).norm()))
    assert np.log10(np.array(gaps[:-1]) / gaps[1:]) == pytest.approx([1.0, 1.0], abs=0.1)


def suite() -> Forecasts:
    return build("suite", compose.node("suite", "forecast"))


@pytest.mark.slow
def test_every_method_is_trained_and_judged(tmp_path: Path) -> None:
    whole = suite()
    setting = replace(whole.control.setting, points=8, frames=8, step=0.02)
    fit, search = ControlFit(0.3, train=24, valid=16, batch=4), ControlSearch(iterations=15, draws=2)
    posterior = whole.control.posterior | {"steps": 4}
    run = replace(whole.control, setting=setting, fit=fit, search=search, posterior=posterior, cases=2)
    small = replace(whole, parts=("control",), control=run, goals={"control_wdno": 1.0})
    with Measurement((), 1, 0.001, False, tmp_path, Runtime("inline")) as measurement:
        table, bar = small.measure(measurement)
    found = {row.what: row.values for row in table.rows}
    assert list(found) == ["none", "optimal", "unet", "wdno"]
    for row in found.values():
        assert tuple(row) == COLUMNS
        assert row["J"] == pytest.approx(row["miss"] + row["energy"])  # type: ignore[operator]
    assert found["none"]["energy"] == 0.0
    assert found["optimal"]["J"] < 0.5 * found["none"]["J"]  # type: ignore[operator]
    assert found["optimal"]["J"] <= min(found["unet"]["J"], found["wdno"]["J"])  # type: ignore[type-var]
    assert found["optimal"]["J it expects"] == pytest.approx(found["optimal"]["J"])
    assert found["wdno"]["updates"] > 1  # type: ignore[operator]
    (row,) = bar.rows
    assert row.goal is not None
    assert row.goal.reached == pytest.approx(found["unet"]["J"] / found["wdno"]["J"])  # type: ignore[operator]


def test_wrong_names_are_told() -> None:
    whole = suite()
    with pytest.raises(ConfigError, match=r"control\.network 'unt' is not in networks"):
        replace(whole, control=replace(whole.control, network="unt"))
