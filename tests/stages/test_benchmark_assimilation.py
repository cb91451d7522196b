"""Part `assimilation` of the suite `forecast`, tiny; its truth, its solver, and the observer as a stored forecaster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import stage_recipe as recipe
import torch

from pdediff import stages
from pdediff.config import build
from pdediff.errors import ConfigError
from pdediff.flows import compose
from pdediff.models.forecasters import ObserverNetwork
from pdediff.models.semigroup import Semigroup
from pdediff.pdes import Problem
from pdediff.runtime import Runtime
from pdediff.stages.benchmarks import Forecasts
from pdediff.stages.benchmarks.base import Measurement
from pdediff.stages.benchmarks.forecast_assimilation import COLUMNS, HARD
from pdediff.stages.benchmarks.forecast_assimilation_setting import AssimilationRun, Filters, Readings, Series
from pdediff.stages.benchmarks.forecast_assimilation_world import Climate, Solver, ahead, relative, world
from pdediff.stages.benchmarks.forecast_ks_setting import KSFit
from pdediff.stages.forecaster_training import load_forecaster
from pdediff.store import SetReader, open_store

SERIES = Series(grid=32, step=0.25, train=4, frames=8, cases=(1, 2), times=(6, 12, 3))
FILTERS = Filters((1e-3, 1e-2), (1.0, 1.05), (4, 40), lag=2, few=5, radii=(6.0,))


def suite() -> Forecasts:
    return build("suite", compose.node("suite", "forecast"))


@pytest.mark.slow
def test_every_filter_is_run_and_scored(tmp_path: Path) -> None:
    whole = suite()
    run = replace(whole.assimilation, series=SERIES, filters=FILTERS, fit=KSFit(0.2, (0,), batch=2))
    small = replace(whole, parts=("assimilation",), assimilation=run, goals={"assimilation_gain": 1.0})
    with Measurement((), 1, 0.001, False, tmp_path, Runtime("inline")) as measurement:
        table, bars = small.measure(measurement)
    found = {row.what: row.values for row in table.rows}
    names = list(found)
    assert names[:3] == ["climatology", "3D-Var", "EnKF, 5 members"]
    assert names[3].endswith("members: the observer's cost")
    assert names[4:] == ["EnKF, 40 members", "EnKS, lag 2", "EnKF, 5 members, radius 6", "observer"]
    for what, row in found.items():
        assert set(row) <= set(COLUMNS)
        assert all(0 < row[c] < 3 for c in ("analysis", HARD))  # type: ignore[operator]
        assert (row.get("spread-skill") is not None) == what.startswith("EnKF")
    assert found["climatology"]["analysis"] == pytest.approx(1.0, abs=0.05)  # the mean is zero
    assert found["EnKF, 40 members"]["analysis"] < found["3D-Var"]["analysis"] < 0.3  # type: ignore[operator]
    assert found["EnKF, 40 members"]["solves"] == 40.0
    (bar,) = bars.rows
    assert bar.goal is not None
    assert bar.goal.reached == pytest.approx(found["3D-Var"]["analysis"] / found["observer"]["analysis"])  # type: ignore[operator]


def test_the_model_is_the_solver_that_made_the_truth() -> None:
    pde, step = SERIES.pde(4), Solver(SERIES)
    problem = pde.draw((1, 2, 3), SERIES.grid)
    u = pde.solve(Problem(problem.fields, problem.scalars))["u"]
    x = u[:, 0, None]
    for frame in range(1, 4):
        x = step(x)
        torch.testing.assert_close(x[:, 0], u[:, frame], rtol=0, atol=1e-11)
    torch.testing.assert_close(step(x[:1])[0], step(x)[0], rtol=0, atol=1e-11)  # sizes do not share memory


def test_climate_is_that_of_all_shifts() -> None:
    """Waves a cos(3 x + phase) + m have the mean m and the covariance a^2 / 2 cos(3 (x - x'))."""
    at = torch.arange(16, dtype=torch.float64) * (2 * torch.pi / 16)
    states = 0.7 * torch.cos(3 * at + torch.rand(50, 1, generator=torch.Generator().manual_seed(0)).double()) + 0.2
    climate = Climate.of(states)
    torch.testing.assert_close(climate.mean, torch.full((1, 16), 0.2).double(), rtol=0, atol=1e-12)
    wanted = 0.245 * torch.cos(3 * (at[:, None] - at))
    torch.testing.assert_close(climate.covariance.matrix, wanted, rtol=0, atol=1e-12)


def test_readings_are_where_they_are_said_to_be() -> None:
    run = AssimilationRun(series=replace(SERIES, times=(100, 400, 3)), readings=Readings(4, 0.05, 0.25, 0.5))
    whole, half = (world(run, 4, 7, blank) for blank in (0.0, run.readings.blank))
    assert torch.equal(whole.truth, half.truth)
    assert torch.equal(whole.readings, half.readings)
    assert not whole.mask[..., torch.arange(32) % 4 != 0].any()
    assert bool((whole.mask | ~half.mask).all())  # with frames missing nothing else is read
    share = whole.mask[..., ::4].double().mean()  # 16,000 readings
    assert float(share) == pytest.approx(0.75, abs=5.5 * (0.75 * 0.25 / 16_000) ** 0.5)
    frames = half.mask.flatten(2).any(2).double().mean()  # 2,000 frames
    assert float(frames) == pytest.approx(0.5, abs=5.5 * (0.25 / 2_000) ** 0.5)
    error = (whole.readings - whole.truth).square().mean().sqrt() / whole.truth.square().mean().sqrt()
    assert float(error) == pytest.approx(0.05, rel=5.5 / (2 * whole.truth.numel()) ** 0.5)
    seen = half.observations(0)
    assert [o is None for o in seen] == [not bool(m.any()) for m in half.mask[0]]
    first = next(k for k, o in enumerate(seen) if o is not None)
    residual = seen[first].residual(half.truth[0, first, None])  # type: ignore[union-attr]
    expected = (half.readings - half.truth)[0, first][half.mask[0, first]]
    torch.testing.assert_close(residual[0], expected)


def test_errors_are_relative_and_forecasts_end_at_the_lead_time() -> None:
    run, step = AssimilationRun(series=SERIES), Solver(SERIES)
    at = world(run, 2, 8, 0.0)
    assert relative(1.1 * at.truth, at.truth) == pytest.approx(0.1)
    assert relative(at.truth * float("nan"), at.truth) == float("inf")
    assert ahead(run, at.truth, at.truth, step) < 1e-10  # the solver from the truth
    shift = at.truth.roll(-run.series.lead, 1)  # frame k holds the truth of k + 3, but for the last three frames
    assert ahead(run, shift, at.truth, lambda x: x) == 0.0


def test_the_observer_is_trained_stored_and_forecasts(tmp_path: Path) -> None:
    words = (
        "pde=ks1d",
        "pde.length=22.0",
        "samples=12",
        "grid=16",
        "shard=12",
        "split={train: 0.5, valid: 0.25, test: 0.25}",
    )
    clock = "pde.clock={frames: 9, interval: 0.5, step: 0.25, warm_up: 4, precision: float64}"
    data = stages.generate(recipe.config("generate", *words, clock), tmp_path, recipe.INLINE)
    network = ("network=dilated_resnet", "network.width=8", "network.blocks=1", "fit.steps=4", "fit.batch=2")
    config = recipe.config("train_forecaster", "forecaster=semilinear_observer", "forecaster.modes=15", *network)
    run = stages.train_forecaster(config, data, tmp_path, recipe.INLINE)
    stored = load_forecaster(run)
    assert isinstance(stored.network, ObserverNetwork)
    reader = SetReader(data)
    frames = stored.scaling.state(torch.from_numpy(reader.array("u", reader.split("train")))[:, :, None])
    fresh = Semigroup(1, 15, 1)
    fresh.fit(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1))
    torch.testing.assert_close(stored.network.semigroup.multiplier, fresh.multiplier, rtol=1e-5, atol=1e-6)
    made = stages.forecast(recipe.config("forecast", "cases=2", "frames=3"), run, data, tmp_path, recipe.INLINE)
    assert open_store(made)["forecast"]["u"].shape == (2, 1, 3, 16)
    wide = recipe.config("train_forecaster", "forecaster=semilinear_observer", *network)
    with pytest.raises(ConfigError, match="modes=31 need as many cells"):
        stages.train_forecaster(wide, data, tmp_path, recipe.INLINE)


def test_wrong_names_are_told() -> None:
    whole = suite()
    with pytest.raises(ConfigError, match=r"assimilation\.observer 'obs' is not among"):
        replace(whole, assimilation=replace(whole.assimilation, observer="obs"))
