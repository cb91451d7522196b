"""A chromatographic column: advection, dispersion and adsorption kinetics in one dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.special import erf
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pdediff.errors import ConfigError
from pdediff.pdes import additive_runge_kutta as ark
from pdediff.pdes.base import Clock, Problem, Variable
from pdediff.pdes.column import CLOSURE, Column, State, spline_weights
from pdediff.pdes.ranges import Range, linear, require_positive
from pdediff.types import Positive, uniform

KNOTS = 32
_LOAD, _BUMPS, _PULSES = 0.5, 2, 2


@dataclass(frozen=True)
class Chromatography:
    """A packed column that separates, for the recovery of kinetics from the curve that leaves its outlet.

    c_t + q_t + c_x = c_xx / peclet and q_t = rate (affinity c - q) on 0 < x < 1, c_x = 0 at the outlet; "langmuir":
    q_t = rate (affinity c (1 - q / capacity) - q) (Thomas 1944). Nondimensional: x in column lengths, t in residence
    times of the fluid, c and q in units of the feed per volume of fluid. At the inlet c - c_x / peclet = f
    ("danckwerts", Danckwerts 1953, section 2) or c = f ("dirichlet"), with f(t) cubic B-splines over 0 < t <
    `injection`: two random pulses of height U[0.2, 1]. The column starts with two random bumps of height up to 0.5,
    adsorbed in equilibrium. Each sample draws peclet, affinity and rate uniformly from their ranges. Finite volumes of
    fifth order; additive Runge-Kutta of fourth order, kinetics implicit.
    Good values: peclet 100 to 400, affinity 0.5 to 2 (solute leaves 1 + affinity late), rate 2 to 20, capacity 0.5 to
    2 (fronts sharpen themselves below 1); grid 128 (relative error 5e-5).
    Raises ConfigError where a range is not in order or not positive, with a warm-up, or where the step is unstable.
    """

    name: ClassVar[str] = "chromatography"
    formula: ClassVar[str] = "c_t + q_t + c_x = c_xx / peclet, q_t = rate (affinity c [1 - q / capacity] - q)"
    boundary: ClassVar[str] = "c - c_x / peclet (or c) given at x = 0, c_x = 0 at x = 1"
    symmetries: ClassVar[str] = "none"
    levels: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "low": {"isotherm": "linear"},
        "medium": {"isotherm": "langmuir", "capacity": 2.0},
        "high": {"isotherm": "langmuir", "capacity": 0.5},
    }
    conserved: ClassVar[Mapping[str, float]] = {"balance": 5e-5}

    isotherm: Literal["linear", "langmuir"] = "linear"
    entrance: Literal["danckwerts", "dirichlet"] = "danckwerts"
    peclet: Range = (100.0, 400.0)
    affinity: Range = (0.5, 2.0)
    rate: Range = (2.0, 20.0)
    capacity: Positive = 1.0
    injection: Positive = 3.0
    clock: Clock = Clock(frames=101, interval=0.06, step=0.003)

    def __post_init__(self) -> None:
        require_positive(peclet=self.peclet, affinity=self.affinity, rate=self.rate)
        if self.clock.warm_up:
            raise ConfigError(f"clock.warm_up={self.clock.warm_up}: a column starts as it is loaded, it must be 0")

    def variables(self) -> tuple[Variable, ...]:
        """Feed, loading and parameters (inputs); both concentrations, outlet curve and amounts (outputs)."""
        retained = self.affinity[1] if self.isotherm == "linear" else min(self.affinity[1], self.capacity)
        amount = 1.1 * (self.injection + _LOAD * _BUMPS * (1.0 + retained))
        ranges = {name: _rounded(getattr(self, name)) for name in ("peclet", "affinity", "rate")}
        about = {
            "peclet": "velocity times length over dispersion",
            "affinity": "adsorbed over mobile concentration at equilibrium, dilute",
            "rate": "rate of desorption times residence time",
        }
        return (
            Variable("inlet", ("inlet_time",), "1", "concentration fed, as cubic B-splines", "input", 0.0, 1.0),
            Variable("initial", ("x",), "1", "mobile concentration at time 0", "input", 0.0, _LOAD * _BUMPS),
            *(Variable(name, (), "1", text, "input", *ranges[name]) for name, text in about.items()),
            Variable("mobile", ("time", "x"), "1", "concentration in the fluid", "output", -0.1, 1.2),
            Variable(
                "adsorbed", ("time", "x"), "1", "concentration on the packing", "output", -0.1, 1.1 * retained + 0.1
            ),
            Variable("outlet", ("time",), "1", "mobile concentration at the outlet", "output", -0.1, 1.2),
            Variable("fed", ("time",), "1", "amount that has entered", "output", -amount, amount),
            Variable("collected", ("time",), "1", "amount that has left", "output", -0.1, amount),
        )

    def coordinates(self, grid: int) -> dict[str, np.ndarray]:
        """Centres of the splines of the feed, frame times, cell centres. Raises ConfigError for an unstable step."""
        self._require_stable(grid)
        spacing = self.injection / (KNOTS + 3)
        return {
            "inlet_time": spacing * (np.arange(KNOTS) + 2.0),
            "time": self.clock.times(),
            "x": (np.arange(grid) + 0.5) / grid,
        }

    def draw(self, seeds: Sequence[int], grid: int, device: torch.device | str = "cpu") -> Problem:
        """Feeds `(batch, 32)`, loadings `(batch, x)` and parameters `(batch,)`; the same on every grid."""
        self._require_stable(grid)
        numbers = uniform(seeds, (3 + 3 * _PULSES + 3 * _BUMPS,))
        peclet, affinity, rate = (
            linear(numbers[:, i], between) for i, between in enumerate((self.peclet, self.affinity, self.rate))
        )
        pulses, bumps = (part.unflatten(1, (-1, 3)).unbind(2) for part in numbers[:, 3:].split(3 * _PULSES, 1))
        problem = Problem(
            {"inlet": _feed(*pulses), "initial": _loading(*bumps, grid=grid)},
            {"peclet": peclet, "affinity": affinity, "rate": rate},
        )
        return problem.to(device)

    def solve(self, problem: Problem) -> dict[str, Tensor]:
        """Concentrations `(batch, time, x)`, outlet curve and amounts `(batch, time)`; differentiable in all inputs.

        Raises ConfigError for a step that is unstable at the smallest peclet of the range.
        """
        initial, inlet = problem.fields["initial"], problem.fields["inlet"]
        self._require_stable(initial.shape[-1])
        column, dtype = self._column(problem.scalars, initial.shape[-1]), self.clock.dtype
        mobile = initial.to(dtype)
        state = State(mobile, column.loaded(mobile), torch.zeros_like(mobile[:, 0]), torch.zeros_like(mobile[:, 0]))
        states = [state]
        for places, weights in zip(*self._feed_nodes(inlet.device), strict=True):
            state = _carried(column, state, inlet.to(dtype), places[None], weights, self.clock)
            states.append(state)
        frames = State(*(torch.stack(part, 1) for part in zip(*states, strict=True)))
        outputs = {"mobile": frames.mobile, "adsorbed": frames.adsorbed, "outlet": column.end(frames.mobile)}
        return {**problem.fields, **problem.scalars, **outputs, "fed": frames.fed, "collected": frames.collected}

    def residual(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Defect of both concentrations after one interval, per unit time, `(batch, 2, time - 1, x)`."""
        values = torch.stack([fields["mobile"], fields["adsorbed"]], 1).to(self.clock.dtype)
        batch, _, frames, cells = values.shape
        repeated = {name: fields[name].repeat_interleave(frames - 1) for name in ("peclet", "affinity", "rate")}
        mobile, adsorbed = values[:, :, :-1].transpose(1, 2).flatten(0, 1).unbind(1)
        nothing = torch.zeros_like(mobile[:, 0])
        start = State(mobile, adsorbed, nothing, nothing)
        inlet = fields["inlet"].to(values.dtype).repeat_interleave(frames - 1, 0)
        places, weights = (part.repeat(batch, 1, 1) for part in self._feed_nodes(values.device))
        carried = _carried(self._column(repeated, cells), start, inlet, places, weights, self.clock)
        expected = torch.stack([carried.mobile, carried.adsorbed], 1).unflatten(0, (batch, frames - 1))
        return (values[:, :, 1:] - expected.transpose(1, 2)) / self.clock.interval

    def invariants(self, fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`mass` in the column, and `balance`: mass + collected - fed, which is constant, `(batch, time)`."""
        mass = (fields["mobile"] + fields["adsorbed"]).mean(-1)
        return {"mass": mass, "balance": mass + fields["collected"] - fields["fed"]}

    def inner_description(self, grid: int) -> dict[str, object]:
        """Discretisation, integrator and inner step."""
        return {
            "method": "finite volumes, upwind of order 5, dispersion of order 6, boundary closures of degree 5",
            "solver": "ARK4(3)6L[2]SA: transport explicit, kinetics implicit in closed form",
            "step": self.clock.interval / self.clock.steps,
            "cell": 1.0 / grid,
        }

    def _column(self, numbers: Mapping[str, Tensor], cells: int) -> Column:
        capacity = None if self.isotherm == "linear" else self.capacity
        return Column.build(dict(numbers), cells, self.entrance == "dirichlet", capacity, self.clock.dtype)

    def _feed_nodes(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Places and weights of the splines at the nodes of all steps of every interval, `(frames - 1, nodes, 4)`."""
        clock = self.clock
        begin = clock.interval * (np.arange(clock.frames - 1)[:, None] + np.arange(clock.steps) / clock.steps)
        nodes = begin[..., None] + (clock.interval / clock.steps) * np.array(ark.NODES)
        places, weights = spline_weights(nodes.reshape(len(nodes), -1), self.injection / (KNOTS + 3), KNOTS)
        return torch.from_numpy(places).to(device), torch.from_numpy(weights).to(device, clock.dtype)

    def _require_stable(self, grid: int) -> None:
        """Advection allows h = 2.2 / n, dispersion ARK's real limit over its largest rate; together less."""
        if grid < 2 * CLOSURE:
            raise ConfigError(f"grid={grid} is too small for the ends of a column: it must be at least {2 * CLOSURE}")
        dispersion = (10.4 if self.entrance == "dirichlet" else 6.4) * grid**2 / self.peclet[0]
        limit = 0.9 / float(np.hypot(grid / 2.0, dispersion / ark.REAL_LIMIT))
        h = self.clock.interval / self.clock.steps
        if h > limit:
            at = f"grid={grid} and peclet {self.peclet[0]:g}"
            raise ConfigError(f"clock.step={self.clock.step:g} is unstable at {at}: it must be at most {limit:.2g}")


def _carried(column: Column, state: State, inlet: Tensor, places: Tensor, weights: Tensor, clock: Clock) -> State:
    """The state one interval later; feed nodes `(batch or 1, nodes, 4)`."""
    h = clock.interval / clock.steps

    def interval(inlet: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        now, fed = State(*parts), torch.zeros((), dtype=inlet.dtype, device=inlet.device)
        for spline in range(4):
            there = places[..., spline].expand(len(inlet), -1)
            fed = fed + weights[..., spline] * inlet.gather(1, there)
        for at in fed.unflatten(1, (clock.steps, len(ark.NODES))).unbind(1):
            now = _saving(column.step, now, at, h)
        return tuple(now)

    return State(*_saving(interval, inlet, *state))


def _saving(function: Any, *arguments: Any) -> Any:
    """`function`, recomputed in the backward pass: one state per frame is kept, and then the graph of one step."""
    if torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return function(*arguments)


def _feed(start: Tensor, duration: Tensor, height: Tensor) -> Tensor:
    """Coefficients `(batch, 32)` of rectangular pulses, averaged about each centre; together at most 1."""
    centres = (torch.arange(KNOTS, dtype=torch.float64) + 0.5)[:, None]
    begin = KNOTS * (0.05 + 0.5 * start[:, None])
    end = begin + KNOTS * (0.05 + 0.35 * duration[:, None])
    covered = (torch.minimum(end, centres + 0.5) - torch.maximum(begin, centres - 0.5)).clamp(min=0.0)
    return 1.0 - (1.0 - (0.2 + 0.8 * height[:, None]) * covered).prod(-1)


def _loading(centre: Tensor, width: Tensor, height: Tensor, *, grid: int) -> Tensor:
    """Cell means `(batch, x)` of Gaussian bumps inside the column."""
    faces = np.arange(grid + 1) / grid
    middle, scale = 0.3 + 0.4 * centre.numpy()[..., None], 0.05 + 0.05 * width.numpy()[..., None]
    primitive = 0.5 * np.sqrt(np.pi) * scale * erf((faces - middle) / scale)
    means = grid * np.diff(primitive, axis=-1) * (_LOAD * height.numpy()[..., None])
    return torch.from_numpy(means.sum(1))


def _rounded(ends: Range) -> Range:
    """A range that holds its ends after rounding to float32."""
    low, high = ends
    return min(low, float(np.float32(low))), max(high, float(np.float32(high)))
