"""Time error, spectral tail and drift against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from pdediff.errors import ConfigError, NumericalError
from pdediff.pdes import PDE, Darcy, Problem, Variable
from pdediff.pdes.accuracy import HALVINGS, assess, drift, inner_step, interval_error, tail_ratio, time_error
from pdediff.pdes.base import Clock


@dataclass(frozen=True)
class Decay:
    """u_t = -rate u by the explicit Euler scheme; the starts are 1, 2, ... times a wave."""

    name: ClassVar[str] = "decay"
    formula: ClassVar[str] = "u_t = -rate u"
    boundary: ClassVar[str] = "periodic"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    conserved: ClassVar[Mapping[str, float]] = {"mean": 0.25, "energy": 0.5}

    rate: float = 1.0
    faster: float = 0.0
    broken: tuple[int, ...] = ()
    clock: Clock = Clock(frames=5, interval=0.5, step=0.25)

    def variables(self) -> tuple[Variable, ...]:
        return (
            Variable("initial", ("x",), "1", "u at time 0", "input"),
            Variable("u", ("time", "x"), "1", "u", "output"),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        return {"time": self.clock.times(), "x": np.arange(grid) / grid}

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        wave = torch.sin(2.0 * math.pi * torch.arange(grid, dtype=torch.float64) / grid)
        return Problem({"initial": torch.tensor(seeds, dtype=torch.float64)[:, None] * wave})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        start, h = problem.fields["initial"], self.clock.interval / self.clock.steps
        seeds = start[:, start.shape[1] // 4].round().int().tolist()
        if set(seeds) & set(self.broken):
            raise NumericalError("one row breaks the batch")
        frames = [start]
        for _ in range(self.clock.frames - 1):
            # the rate of a state may grow with its size, so that later intervals differ from the first
            rate = self.rate + self.faster / frames[-1].abs().amax(1, keepdim=True)
            frames.append(frames[-1] * (1.0 - rate * h) ** self.clock.steps)
        u = torch.stack(frames, 1)
        return {"initial": start, "u": torch.where(u.abs() > 1e6, torch.nan, u)}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        return fields["u"]

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"mean": fields["u"].mean(-1), "energy": fields["u"].square().mean(-1)}

    def inner_description(self, grid: int) -> dict[str, object]:
        return {"method": "Euler"}


def euler(rate: float, h: float, interval: float = 0.5) -> float:
    return (1.0 - rate * h) ** round(interval / h)


def test_the_error_is_the_difference_that_half_the_step_makes_in_one_interval() -> None:
    expected = abs(euler(1.0, 0.25) / euler(1.0, 0.125) - 1.0)
    assert time_error(Decay(), [1, 2, 3, 4], 8) == pytest.approx(expected, rel=1e-12)
    finer = time_error(Decay(clock=Clock(5, 0.5, 0.125)), [1, 2, 3, 4], 8)
    assert 1.8 < expected / finer < 2.3  # first order


def test_later_frames_are_starts_too() -> None:
    """The rate grows as the state gets smaller: the last interval is the worst one."""
    pde = Decay(faster=0.1)
    frames = pde.solve(pde.draw([1], 8))["u"][0].abs().amax(-1).tolist()
    errors = [abs(euler(1.0 + 0.1 / a, 0.25) / euler(1.0 + 0.1 / a, 0.125) - 1.0) for a in (frames[0], frames[4])]
    assert errors[1] > 1.5 * errors[0]
    assert time_error(pde, [1], 8) == pytest.approx(errors[1], rel=1e-12)
    assert interval_error(pde, [pde.draw([1], 8)], 8) == pytest.approx(errors[0], rel=1e-12)


@dataclass(frozen=True)
class Renamed(Decay):
    """Names its initial state in one of the ways of systems, or in another way."""

    called: str = "initial_u"

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        return Problem({self.called: super().draw(seeds, grid).fields["initial"]})

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        return super().solve(Problem({"initial": problem.fields[self.called]}))


@pytest.mark.parametrize(("called", "restarts"), [("initial_u", True), ("u_initial", True), ("state", False)])
def test_systems_start_again_where_every_output_has_an_initial_state(called: str, restarts: bool) -> None:
    error = time_error(Renamed(faster=0.1, called=called), [1], 8)
    first = interval_error(Decay(faster=0.1), [Decay().draw([1], 8)], 8)
    assert (error > 1.5 * first) == restarts
    assert error == pytest.approx(time_error(Decay(faster=0.1), [1], 8) if restarts else first, rel=1e-12)


def test_a_step_is_halved_until_the_error_is_small_enough() -> None:
    seeds = [1, 2]
    asked = assess(Decay(), seeds, 8)
    assert asked.pde == Decay()
    assert asked.time_error == time_error(Decay(), seeds, 8)
    errors = [time_error(Decay(clock=Clock(5, 0.5, 0.25 / 2**k)), seeds, 8) for k in range(HALVINGS + 1)]
    for halvings in (0, 2, HALVINGS):
        found = assess(Decay(), seeds, 8, tolerance=errors[halvings] * (1 + 1e-9))
        assert found.time_error == pytest.approx(errors[halvings], rel=1e-12)
        assert found.pde.clock == Clock(5, 0.5, 0.25 / 2**halvings)
    with pytest.raises(
        ConfigError, match=r"tolerance=\S+ is not reached: decay has error \S+ at step 0\.0039"
    ) as caught:
        assess(Decay(), seeds, 8, tolerance=0.5 * errors[HALVINGS])
    assert "6 halvings" in str(caught.value.hint)


@dataclass(frozen=True)
class Stretched(Decay):
    """Steps of the clock for 64 points, longer ones on coarser grids; or, with `exact`, none at all."""

    exact: bool = False

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        if self.exact:
            decay = torch.exp(-torch.from_numpy(self.clock.times()))[None, :, None]
            return {"initial": problem.fields["initial"], "u": decay * problem.fields["initial"][:, None]}
        step = self.clock.step * 64.0 / problem.fields["initial"].shape[1]
        return Decay(clock=replace(self.clock, step=step)).solve(problem)

    def inner_description(self, grid: int) -> dict[str, object]:
        clock = replace(self.clock, step=self.clock.step * 64.0 / grid)
        return {"method": "Euler", "step": clock.interval / (1 if self.exact else clock.steps)}


def test_it_is_the_inner_step_that_is_halved() -> None:
    """On 8 points a clock of 0.25 means steps of 2, cut to an interval of 0.5: half of that is 0.25, not one of 1."""
    expected = abs(euler(1.0, 0.5) / euler(1.0, 0.25) - 1.0)
    assert time_error(Stretched(), [1], 8) == pytest.approx(expected, rel=1e-12)
    assert time_error(Stretched(), [1], 64) == pytest.approx(time_error(Decay(), [1], 64), rel=1e-12)
    found = assess(Stretched(), [1], 8, tolerance=0.9 * expected)
    assert (inner_step(found.pde, 8), found.time_error) == (0.25, pytest.approx(time_error(Decay(), [1], 8), rel=1e-12))
    assert time_error(Stretched(exact=True), [1], 8) == 0.0
    assert assess(Stretched(exact=True), [1], 8, tolerance=1e-15).pde == Stretched(exact=True)


def test_a_step_that_diverges_is_halved_too() -> None:
    stiff = Decay(rate=200.0, clock=Clock(9, 0.5, 0.25))
    with pytest.raises(NumericalError, match=r"decay has no finite solution at step 0\.25"):
        assess(stiff, [1], 8)
    found = assess(stiff, [1], 8, tolerance=1.0)
    assert found.pde.clock is not None
    assert found.pde.clock.step < 0.01


def test_rows_that_fail_are_left_out() -> None:
    assert time_error(Decay(broken=(2,)), [1, 2, 3], 8) == time_error(Decay(), [1, 3], 8)
    assert time_error(Decay(), [1, 10**9], 8) == time_error(Decay(), [1], 8)
    with pytest.raises(NumericalError, match="one row breaks the batch"):
        time_error(Decay(broken=(2,)), [2], 8)


def test_a_steady_equation_has_no_step() -> None:
    with pytest.raises(ConfigError, match="darcy is steady"):
        time_error(Darcy(), [1], 8)
    found = assess(Darcy(), [1, 2], 8)
    assert found.time_error is None
    assert set(found.tail) == {"pressure"}


@dataclass(frozen=True)
class Stored:
    """An equation of which only boundary and variables are asked."""

    boundary: str
    dims: tuple[str, ...]

    def variables(self) -> tuple[Variable, ...]:
        return Variable("source", self.dims, "1", "", "input"), Variable("u", self.dims, "1", "", "output")


def tail(values: np.ndarray, boundary: str, dims: tuple[str, ...]) -> dict[str, float]:
    pde: Any = Stored(boundary, dims)
    return tail_ratio(pde, {"source": torch.zeros(len(values)), "u": torch.from_numpy(values)})


def test_the_tail_of_a_periodic_field() -> None:
    x = 2.0 * np.pi * np.arange(48) / 48

    def ring(parts: Mapping[int, float]) -> np.ndarray:
        return 7.0 + sum(a * np.cos(m * x + 0.3) for m, a in parts.items())

    # modes below 16 only: resolved are 1..15, the last third is 11..15
    got = tail(np.stack([ring({2: 1.0, 11: 0.1, 14: 0.2}), ring({2: 1.0, 10: 0.5})]), "periodic", ("x",))
    assert got["u"] == pytest.approx(0.2**2, rel=1e-12)
    assert tail(ring({2: 1.0, 10: 0.5})[None], "periodic", ("x",))["u"] < 1e-20
    # 24 points: modes below 8 are kept, 5..7 are the last third
    assert tail(ring({1: 1.0, 5: 0.3})[None, ::2], "periodic", ("x",))["u"] == pytest.approx(0.3**2, rel=1e-12)
    # a mode beyond n / 3: no 2/3 rule, resolved are 1..24, the last third is 17..24
    got = tail(ring({2: 1.0, 14: 0.5, 20: 0.1})[None], "periodic on (0, 1)", ("x",))
    assert got["u"] == pytest.approx(0.1**2, rel=1e-12)


def test_the_tail_of_a_square_counts_all_frames_of_a_shell() -> None:
    y, x = np.meshgrid(*(2.0 * np.pi * np.arange(24) / 24,) * 2, indexing="ij")
    frames = np.stack([np.cos(2 * x), np.cos(2 * x) + 0.5 * np.cos(6 * y + x), 0.5 * np.cos(6 * x - 5 * y)])
    # shells 1..7 are resolved, 5..7 the last third: shell 6 has 2 x 0.25 of the energy 2 x 1 of shell 2
    assert tail(frames[None], "periodic", ("time", "y", "x"))["u"] == pytest.approx(0.25, rel=1e-12)


def test_the_tail_of_a_field_with_walls() -> None:
    x = (np.arange(30) + 0.5) / 30
    u = 3.0 + np.cos(np.pi * 4 * x) + 0.2 * np.cos(np.pi * 25 * x) + 0.9 * np.cos(np.pi * 19 * x)
    assert tail(u[None], "u = 0 at the ends", ("x",))["u"] == pytest.approx(0.2**2, rel=1e-12)
    # the last third of 1..29 begins at 20: the strong mode 19 does not count


def test_what_has_no_tail() -> None:
    assert tail(np.ones((2, 5)), "periodic", ("time",)) == {}
    assert tail(np.ones((2, 5)), "none", ("site",)) == {}
    assert tail(np.ones((2, 9)), "periodic", ("x",)) == {"u": 0.0}
    assert tail(np.full((1, 9), np.nan), "periodic", ("x",)) == {}


def test_drift_is_measured_against_the_start() -> None:
    u = torch.zeros(4, 3, 2, dtype=torch.float64)
    u[0] = 10.0
    u[0, 2] += 2.0  # mean drifts by 2 / 10; energy by 44 / 100
    u[1, 1] = 0.3  # mean by 0.3 / 1
    u[2] += torch.tensor([1.0, -1.0])
    u[2, 1] *= 2.0  # mean stays, energy drifts by 3
    u[3, 2] = torch.nan
    pde: PDE = Decay()
    assert drift(pde, {"u": u}) == [
        None,
        "mean drifts by 0.3, more than 0.25",
        "energy drifts by 3, more than 0.5",
        "mean drifts by nan, more than 0.25",
    ]
    assert drift(Darcy(), {"pressure": u}) == [None] * 4


def test_the_clock_of_an_assessed_equation_is_all_that_changes() -> None:
    pde = replace(Decay(), rate=2.0)
    found = assess(pde, [1], 8, tolerance=0.02).pde
    assert found != pde
    assert replace(found, clock=pde.clock) == pde  # type: ignore[type-var]
