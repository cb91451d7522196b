"""Exact denoisers dressed up as networks of every habit, and back: the adapter must return what went in."""

from __future__ import annotations

import math
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pdediff.diffusion import (
    EDM,
    VE,
    AdaptedDenoiser,
    Affine,
    DDPMTable,
    Flow,
    GaussianFieldPrior,
    GaussianMixturePrior,
    GaussianPrior,
    GaussianRandomField,
    LocalScale,
    MeanReverting,
    Process,
    SubVP,
    Trig,
    VPCosine,
    VPLinear,
    WhiteNoise,
    matern_field,
)
from pdediff.errors import ConfigError
from pdediff.samplers import Default, run

SHAPE = (2, 4)
PROCESSES = [VPLinear(), VPCosine(), SubVP(), VE(), EDM(), Flow(), Trig(), MeanReverting(0.1, 4.0, 0.3), DDPMTable()]
PREDICTIONS = ["eps", "x0", "v", "velocity", "score"]
LEVELS = torch.tensor([0.02, 0.6, 3.0, 40.0], dtype=torch.float64)


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(seed: int) -> Tensor:
    root = normals(seed, 8, 8)
    return root @ root.T / 8 + 0.05 * torch.eye(8, dtype=torch.float64)


GAUSSIAN = GaussianPrior(normals(1, *SHAPE), covariance(2))
COLOURED = GaussianFieldPrior(
    normals(3, *SHAPE),
    matern_field((4,), length=0.3, smoothness=2.0, channels=2).spectrum,
    GaussianRandomField(0.05, 1.0),
)
MIXTURE = GaussianMixturePrior(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    2 * normals(4, 3, *SHAPE),
    torch.stack([covariance(i) for i in (5, 6, 7)]),
)
STATES = 0.5 + (1 + LEVELS)[:, None, None] * normals(8, 4, *SHAPE)


@dataclass(frozen=True)
class Rescaled:
    """alpha and sigma of a process times c(t) = e^t + 1: another state, the same level."""

    process: Process

    def alpha(self, t: Tensor) -> Tensor:
        return (t.exp() + 1) * self.process.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return (t.exp() + 1) * self.process.sigma(t)

    def time(self, level: Tensor) -> Tensor:
        return self.process.time(level)


def exact_network(prior: Any, process: Any, prediction: str) -> Any:
    """The best network of its kind, from the definitions; it knows x_t and t only."""

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = process.alpha(t)[:, None, None], process.sigma(t)[:, None, None]
        level = (sigma / alpha).flatten()
        denoised = prior(x_t / alpha, level)
        eps = (x_t - alpha * denoised) / sigma
        if prediction == "score":
            return prior.score(x_t / alpha, level) / alpha
        return {
            "eps": eps,
            "x0": denoised,
            "v": alpha * eps - sigma * denoised,
            "velocity": eps - denoised,
        }[prediction]

    return network


def adapted(prior: Any, process: Any, prediction: str) -> AdaptedDenoiser:
    network = exact_network(prior, process, prediction)
    return AdaptedDenoiser(network, process, prediction, prior.mean, prior.noise, prior.error)  # type: ignore[arg-type]


@pytest.mark.parametrize("prior", [GAUSSIAN, COLOURED, MIXTURE], ids=["gaussian", "coloured", "mixture"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_an_exact_network_gives_the_denoiser_back(prior: Any, prediction: str, process: Process) -> None:
    """Rows at levels of their own, 40 times the data at most: 1e-12 is a hundred roundings of the state."""
    expected = prior(STATES, LEVELS)
    torch.testing.assert_close(adapted(prior, process, prediction)(STATES, LEVELS), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("process", [VPLinear(), Flow(), Trig()], ids=lambda p: type(p).__name__)
def test_only_the_level_counts(prediction: str, process: Process) -> None:
    one = adapted(MIXTURE, process, prediction)(STATES, LEVELS)
    other = adapted(MIXTURE, Rescaled(process), prediction)(STATES, LEVELS)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("process", "prediction", "output", "x", "level"),
    [
        # x0 = 2, eps = 1 throughout; alpha = 0.6, sigma = 0.8: x_t = 2, v = 0.6 - 1.6.
        (Trig(), "v", -1.0, 2.0 / 0.6, 4 / 3),
        # alpha = 0.2, sigma = 0.8: x_t = 1.2, velocity 1 - 2, score -1 / 0.8.
        (Flow(), "velocity", -1.0, 6.0, 4.0),
        (Flow(), "score", -1.25, 6.0, 4.0),
        (EDM(), "eps", 1.0, 6.0, 4.0),
        (VPLinear(), "x0", 2.0, 6.0, 4.0),
    ],
)
def test_worked_numbers(process: Process, prediction: Any, output: float, x: float, level: float) -> None:
    mean = torch.zeros(1, 1, dtype=torch.float64)
    denoiser = AdaptedDenoiser(
        lambda x_t, t: torch.full_like(x_t, output), process, prediction, mean, WhiteNoise(), GAUSSIAN.error
    )
    found = denoiser(mean[None] + x, torch.tensor([level], dtype=torch.float64))
    assert float(found) == pytest.approx(2.0, rel=1e-13)


def test_a_network_sees_its_own_state_and_time() -> None:
    seen = []

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append((x_t, t))
        return x_t

    table = DDPMTable()
    denoiser = AdaptedDenoiser(network, table, "eps", torch.zeros(SHAPE), WhiteNoise(), GAUSSIAN.error)
    x, t = normals(9, 2, *SHAPE).float(), torch.tensor([10.0, 900.0])
    out = denoiser(x, table.level(t).float())
    x_t, time = seen[0]
    assert (x_t.dtype, time.dtype, out.dtype) == (torch.float32, torch.float32, torch.float32)
    torch.testing.assert_close(time, t, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(x_t, table.alpha(t)[:, None, None].float() * x, rtol=1e-5, atol=0)
    assert (denoiser.shape, denoiser.dtype, denoiser.device.type) == (SHAPE, torch.float32, "cpu")


def test_errors_are_those_given() -> None:
    denoiser = adapted(GAUSSIAN, VPLinear(), "eps")
    assert denoiser.error_scale(STATES, 0.5) is None
    torch.testing.assert_close(denoiser.error(0.5).matrix, GAUSSIAN.error(0.5).matrix)  # type: ignore[attr-defined]
    ratio = torch.full((1, 2, 2), 4.0)
    scale = LocalScale((0.1,), torch.zeros(2, 1), ratio)
    scaled = AdaptedDenoiser(
        denoiser.network, VPLinear(), "eps", GAUSSIAN.mean, WhiteNoise(), GAUSSIAN.error, scale
    ).error_scale(STATES, 0.5)
    assert scaled is not None
    assert bool((scaled == 2.0).all())
    with pytest.raises(ConfigError, match="predicts one of"):
        adapted(GAUSSIAN, VPLinear(), "noise")


@pytest.mark.parametrize("scale", [1.0, 0.03, 7.0])
def test_affine_is_the_prior_of_the_transformed_field(scale: float) -> None:
    """shift + scale z0 of a Gaussian or a mixture is one again: denoiser, mean and error in closed form."""
    shift = 3 * normals(20, *SHAPE)
    moved = GaussianPrior(shift + scale * GAUSSIAN.mean, scale**2 * GAUSSIAN.covariance)
    found = Affine(GAUSSIAN, shift, scale)
    torch.testing.assert_close(found(STATES, LEVELS), moved(STATES, LEVELS), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.mean, moved.mean, rtol=1e-14, atol=1e-14)
    for sigma in (0.1, 2.0, math.inf):
        torch.testing.assert_close(found.error(sigma).matvec(STATES), moved.error(sigma).matvec(STATES))
    assert (found.shape, found.dtype, found.noise) == (SHAPE, torch.float64, GAUSSIAN.noise)
    modes = GaussianMixturePrior(MIXTURE.weights, shift + scale * MIXTURE.means, scale**2 * MIXTURE.covariances)
    torch.testing.assert_close(
        Affine(MIXTURE, shift, scale)(STATES, LEVELS), modes(STATES, LEVELS), rtol=1e-10, atol=1e-10
    )


def test_affine_with_a_shift_for_each_row() -> None:
    shifts = 3 * normals(21, 4, *SHAPE)
    base = Affine(MIXTURE, torch.zeros(SHAPE), 0.5)
    together = base.given(shifts)(STATES, LEVELS)
    for i in range(4):
        alone = base.given(shifts[i])(STATES[i : i + 1], LEVELS[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)
    assert base.given(shifts).mean.shape == (4, *SHAPE)
    with pytest.raises(ConfigError, match="scale > 0"):
        Affine(MIXTURE, shifts, 0.0)


def test_local_scale_is_asked_in_units_of_the_residual() -> None:
    """The table of z0 splits at zero: with shift 10 and scale 2 the field splits at ten."""
    scale = LocalScale((0.1,), torch.zeros(2, 1), torch.tensor([[1.0, 9.0], [1.0, 9.0]])[None])
    inner = AdaptedDenoiser(lambda x, t: x, EDM(), "x0", torch.zeros(SHAPE), WhiteNoise(), GAUSSIAN.error, scale)
    factors = Affine(inner, torch.tensor(10.0), 2.0).error_scale(torch.tensor([9.0, 11.0]).expand(1, 2, 2), 0.5)
    assert factors is not None
    assert factors[0, 0].tolist() == [1.0, 3.0]
    assert Affine(GAUSSIAN, torch.tensor(0.0)).error_scale(STATES, 0.5) is None


def test_mean_reverting_by_gaussian_conditioning() -> None:
    """x_t = mu + alpha (x0 - mu) + sigma eps: E[x0 | x_t] from the joint Gaussian, against Affine of an adapter."""
    process, mu, t = MeanReverting(0.1, 4.0, 0.3), 2 * normals(22, *SHAPE), 0.4
    alpha, sigma = process.alpha(t), process.sigma(t)
    residual = GaussianPrior(GAUSSIAN.mean - mu, GAUSSIAN.covariance)
    denoiser = Affine(adapted(residual, process, "eps"), mu)
    x_t = mu + normals(23, 3, *SHAPE)
    found = denoiser(mu + (x_t - mu) / alpha, process.level(t).expand(3))
    s = GAUSSIAN.covariance
    innovation = (x_t - mu - alpha * (GAUSSIAN.mean - mu)).flatten(1)
    gain = alpha * s @ torch.linalg.inv(alpha**2 * s + sigma**2 * torch.eye(8, dtype=torch.float64))
    expected = GAUSSIAN.mean + (innovation @ gain.T).reshape(3, *SHAPE)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_calibrated_errors_are_those_of_the_denoiser() -> None:
    """Held-out draws of the prior itself: the trace of the closed form within the spread of 600 fields."""
    fields = MIXTURE.sample(tuple(range(600)))
    found = adapted(MIXTURE, SubVP(), "velocity").calibrated(fields, [0.1, 1.0, 10.0], rank=3)
    for sigma in (0.1, 1.0, math.inf):
        ratio = float(found.error(sigma).diagonal().sum() / MIXTURE.error(sigma).diagonal().sum())
        assert abs(ratio - 1) < 0.15  # 600 squared norms of eight entries each: 0.03 or less
    torch.testing.assert_close(found(STATES, LEVELS), MIXTURE(STATES, LEVELS), rtol=1e-12, atol=1e-12)
    assert type(found.calibrated(fields, [0.1, 1.0], periodic=True).error(0.5)).__name__ == "FourierCovariance"


def test_a_noise_network_samples_the_exact_flow() -> None:
    process = DDPMTable()
    prior = adapted(GAUSSIAN, process, "eps")
    levels = process.levels(60, power=2.0)
    x = 157.0 * normals(24, 3, *SHAPE)
    out = run(Default().plan(levels), prior, x, (0, 1, 2))
    assert float((out - GAUSSIAN.flow(x, levels[0], levels[-1])).abs().max()) < 1e-3


def test_the_worked_example_of_the_page(tmp_path: Path) -> None:
    """docs/processes.md runs as printed; its network is exact for white fields, so its densities are known."""
    page = (Path(__file__).parents[2] / "docs" / "processes.md").read_text()
    script = tmp_path / "example.py"
    script.write_text(page.split("```python\n")[1].split("```")[0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = runpy.run_path(str(script))
    x, density, end = names["x"], names["density"], names["process"].levels(30, power=2.0)[-1]
    assert x.shape == (8, 1, 16)
    assert 0.7 < float(x.std()) < 1.3  # 128 normals: 0.06 for a standard deviation
    variance = 1 + 0.01**2
    expected = -0.5 * ((x**2).flatten(1).sum(1) / variance + 16 * math.log(2 * math.pi * variance))
    torch.testing.assert_close(density, expected, rtol=0, atol=5e-3)  # float32, and 300 fields for the variance
    assert end == pytest.approx(0.0105, rel=1e-2)
