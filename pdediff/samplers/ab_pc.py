"""Adams-Bashforth predictor with a corrector that costs no evaluation: all deterministic multistep samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Interval

from pdediff.samplers.field import DataPrediction, Diffusion, FieldName, Parameterisation, field, weights
from pdediff.samplers.grids import natural_grid
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.steps import Eval, Lin
from pdediff.types import Positive

Order = Annotated[int, Interval(ge=1, le=4)]

Weigh = Callable[[Parameterisation, Sequence[float], float, float], list[float]]
"""(parameterisation, nodes, start, stop) -> weights of a step; a corrector's first node is its stop."""


@dataclass(frozen=True)
class PC:
    """Predictor-corrector sampler of the probability flow in one of four parameterisations.

    Predictor: x = S(t) / S(s) x_s + sum_j w_j m_j over the last `order` evaluations. Corrector: the same with the
    evaluation at the predicted state added, which the next step needs anyway and which is not repeated (the idea
    of UniPC, Zhao et al. 2023, sec. 3; with field x0 or eps this is UniPC, without the corrector and with x0 it is
    DPM-Solver++, Lu et al. 2022, with eps DEIS, Zhang & Chen 2023). One evaluation per step; the last step is
    predicted only. The error falls as steps^-(order + 1), or steps^-order without the corrector, provided
    the start is nearly Gaussian noise: the first steps run at lower order.

    Good values: field v with s = standard deviation of the data, order 2 up to 10 steps and 3 above.
    """

    source: ClassVar[str] = "after Zhao et al. 2023 (UniPC), sec. 3"

    field: FieldName = "v"
    order: Order = 2
    s: Positive = 1.0
    corrector: bool = True

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    @property
    def slope(self) -> int:
        """Promised order of convergence; at order 4 down to an error of about 1e-6, where the first steps show."""
        return self.order + self.corrector

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """Parameterisation and predictor order."""
        return field(self.field, self.s), self.order

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in the interpolation variable of the field; sigma_min = 0 is reached by a step of its own."""
        return natural_grid(self.field, steps, sigma_max, sigma_min, self.s)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are too few for the order."""
        levels = check_levels(sigmas, self.order)
        return multistep(levels, field(self.field, self.s), self.order, corrector=self.corrector)


def multistep(
    levels: Sequence[float],
    of: Parameterisation,
    order: int,
    *,
    corrector: bool = False,
    noise: Diffusion | None = None,
    weigh: Weigh = weights,
) -> Plan:
    """Plan of the AB(order) predictor, with or without the free corrector, along checked levels.

    `noise` says what is added in a step; predictor and corrector share it. `weigh` stands for the exact
    weights where a paper has others.
    """
    steps, last = len(levels) - 1, len(levels) - 2
    ops = _evaluate(of, levels, 0, STATE, order)
    for i in range(steps):
        # To sigma = 0 only fields that are regular there can extrapolate; the others take the denoised state.
        p = 1 if levels[i + 1] == 0.0 and not of.reaches_zero else min(order, i + 1)
        history = list(range(i, i - p, -1))
        predicted = "predicted" if corrector and i < last else STATE
        before = len(ops)
        ops.append(_advance(of, levels, i, history, predicted, order, noise, weigh))
        if i == last:
            break
        ops += _evaluate(of, levels, i + 1, predicted, order)
        if corrector:
            again = _advance(of, levels, i, [i + 1, *history], STATE, order, noise, weigh)
            ops.append(correction(ops[before], again))
    return Plan(tuple(ops), tuple(levels))


def correction(predictor: Eval | Lin, corrector: Lin) -> Lin:
    """The corrector of a step as what it adds to the predicted state: the same number, in one pass less over it.

    Both start from the state and share the noise.
    """
    assert isinstance(predictor, Lin)
    done, wanted = dict(predictor.terms), dict(corrector.terms)
    names = [name for name in dict.fromkeys((*wanted, *done)) if name != STATE]
    terms = [(name, wanted.get(name, 0.0) - done.get(name, 0.0)) for name in names]
    return Lin(corrector.dst, ((predictor.dst, 1.0), *terms))


def _memory(node: int, order: int) -> str:
    # order + 1 slots: a corrector of the last nodes needs the new one beside all old ones.
    return f"m{node % (order + 1)}"


def _evaluate(of: Parameterisation, levels: Sequence[float], node: int, src: str, order: int) -> list[Eval | Lin]:
    """Evaluate and remember m over `_gain`, which is one addition instead of two multiplications."""
    c_x, c_denoised = of.model(levels[node])
    slot = _memory(node, order)
    if c_x == 0.0:
        return [Eval(slot, src, levels[node])]
    return [Eval("denoised", src, levels[node]), Lin(slot, ((src, 1.0), ("denoised", c_denoised / c_x)))]


def _gain(of: Parameterisation, sigma: float) -> float:
    """m over what its slot holds: x + (b / a) D for m = a x + b D, or D itself for a = 0."""
    c_x, c_denoised = of.model(sigma)
    return c_denoised if c_x == 0.0 else c_x


def _advance(
    of: Parameterisation,
    levels: Sequence[float],
    i: int,
    nodes: Sequence[int],
    dst: str,
    order: int,
    noise: Diffusion | None,
    weigh: Weigh,
) -> Lin:
    start, stop = levels[i], levels[i + 1]
    if stop == 0.0 and isinstance(of, DataPrediction):
        return Lin(dst, ((_memory(nodes[0], order), 1.0),))
    if stop == 0.0 and not of.reaches_zero:
        return Lin(dst, ((STATE, 1.0), (_memory(nodes[0], order), -start * _gain(of, start))))
    found = weigh(of, [levels[j] for j in nodes], start, stop)
    terms = [(_memory(j, order), w * _gain(of, levels[j])) for j, w in zip(nodes, found, strict=True)]
    added, span = (0.0, None) if noise is None else noise.added(start, stop)
    return Lin(dst, ((STATE, of.scale(stop) / of.scale(start)), *terms), added, i, span)
