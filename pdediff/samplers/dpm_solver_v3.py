"""DPM-Solver-v3 whose statistics are an energy spectrum: the Wiener filter as linear part, band by band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Interval, MinLen
from torch import Tensor

from pdediff.samplers.bands import band_of
from pdediff.samplers.field import Parameterisation, TrigPrediction, lagrange
from pdediff.samplers.grids import uniform_lambda
from pdediff.samplers.plan import STATE, Plan, check_levels
from pdediff.samplers.steps import Band, Eval, Lin, Step
from pdediff.types import NonNegative, Positive

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


@dataclass(frozen=True)
class DPMSolverV3:
    """DPM-Solver-v3 (Zheng et al. 2023, sec. 3) with spectral statistics instead of ones fitted to a network.

    The linear part of a mode of prior variance v is l = sigma^2 / (v + sigma^2), and that of its remainder s = l' / l
    (' = d / dlambda), b = 0. In closed form, with S = sqrt(v + sigma^2),

        x = S z,    dz = g dkappa,    kappa = -1 / S,    g = (x - D) / l - x,

    and g = -m for a mode of N(m, v): a Gaussian field with this spectrum, of any mean, is integrated exactly in one
    step. v -> 0 is data prediction (UniPC). g is interpolated in lambda over the last `order` evaluations; the
    corrector adds the next one, free as in `PC`. A wrong spectrum costs accuracy, not consistency. The step to
    sigma = 0 is of order 1.

    `spectrum` holds v / s^2 for the radial bands round(|k|) = 0, 1, ... under an orthonormal transform, relative to the
    noise (`band_variances`); the last entry holds for all smaller scales. One entry is white: no transform is made.

    Good values: order 2 up to 10 steps, 3 above, corrector on; the spectrum of the data.
    """

    source: ClassVar[str] = "Zheng et al. 2023 (DPM-Solver-v3), sec. 3"

    spectrum: Annotated[tuple[NonNegative, ...], MinLen(1)] = (1.0,)
    order: Annotated[int, Interval(ge=1, le=3)] = 3
    s: Positive = 1.0
    corrector: bool = True

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations of a step."""
        return 1.0

    @property
    def slope(self) -> int:
        """Promised order of convergence."""
        return self.order + self.corrector

    def integrator(self, steps: int) -> tuple[Parameterisation, int]:
        """The nearest field without bands, F for the mean variance, and the order of the predictor."""
        mean = sum(self.spectrum) / len(self.spectrum)
        return TrigPrediction(self.s * math.sqrt(mean) if mean > 0.0 else self.s), self.order

    def grid(self, steps: int, sigma_max: float, sigma_min: float) -> list[float]:
        """Uniform in log sigma."""
        return uniform_lambda(sigma_max, sigma_min, steps)

    def plan(self, sigmas: Sequence[float]) -> Plan:
        """The compiled steps; `ConfigError` if the levels do not decrease or are too few for the order."""
        levels = check_levels(sigmas, self.order)
        v = self.s**2 * np.asarray(self.spectrum, dtype=np.float64)
        last = len(levels) - 2
        ops = self._evaluate(v, levels[0], 0, STATE)
        for i in range(last + 1):
            p = 1 if levels[i + 1] == 0.0 else min(self.order, i + 1)
            history = list(range(i, i - p, -1))
            predicted = "predicted" if self.corrector and i < last else STATE
            ops.append(self._advance(v, levels, i, history, predicted))
            if i == last:
                break
            ops += self._evaluate(v, levels[i + 1], i + 1, predicted)
            if self.corrector:
                ops.append(self._advance(v, levels, i, [i + 1, *history], STATE))
        return Plan(tuple(ops), levels)

    def _slot(self, node: int) -> str:
        return f"m{node % (self.order + 1)}"

    def _evaluate(self, v: np.ndarray, sigma: float, node: int, src: str) -> list[Step]:
        """Remember l g = v / (v + sigma^2) x - D, the Wiener filter less the denoiser: bounded for all v and sigma."""
        wiener = v / (v + sigma**2)
        terms = [(src, wiener), ("denoised", np.full_like(v, -1.0))]
        return [Eval("denoised", src, sigma), _combination(self._slot(node), terms)]

    def _advance(self, v: np.ndarray, levels: Sequence[float], i: int, nodes: Sequence[int], dst: str) -> Step:
        start, stop = levels[i], levels[i + 1]
        before, after = np.sqrt(v + start**2), np.sqrt(v + stop**2)
        found = _weights(v, [levels[j] for j in nodes], start, stop)
        linear = [(v + levels[j] ** 2) / levels[j] ** 2 for j in nodes]
        terms = [(self._slot(j), found[:, k] * linear[k]) for k, j in enumerate(nodes)]
        return _combination(dst, [(STATE, after / before), *terms])


def band_variances(modes: Tensor) -> tuple[float, ...]:
    """Mean of `modes` (channel, *space), variances in fftn order, over each radial band: the `spectrum` of the solver.

    From a `GaussianFieldPrior` pass its `spectrum` (over that of a coloured noise); from data the mean over
    samples of |fftn(x, norm="ortho")|^2.
    """
    entry = band_of(modes.shape[1:]).flatten()
    bands = int(entry.max()) + 1
    rows = modes.reshape(len(modes), -1).double().cpu()
    total = torch.zeros(bands, dtype=torch.float64).index_add_(0, entry, rows.mean(0))
    return tuple((total / torch.bincount(entry, minlength=bands)).tolist())


def _combination(dst: str, terms: Sequence[tuple[str, np.ndarray]]) -> Step:
    bands = len(terms[0][1])
    if bands == 1:
        return Lin(dst, tuple((name, float(c[0])) for name, c in terms))
    return Band(dst, tuple((name, tuple(c.tolist())) for name, c in terms), (0.0,) * bands)


def _fall(v: np.ndarray, start: float, stop: float) -> np.ndarray:
    """1 - S(stop) / S(start), without the cancellation: minus the weights' sum."""
    ratio = np.sqrt((v + stop**2) / (v + start**2))
    return (start - stop) * (start + stop) / ((v + start**2) * (1.0 + ratio))


def _weights(v: np.ndarray, nodes: Sequence[float], start: float, stop: float) -> np.ndarray:
    """w[r, j] = S(stop) int l_j(lambda) dkappa of band r; (bands, nodes).

    dkappa / dlambda = -sigma^2 / S^3 is analytic for |imaginary part| < pi / 2: panels of 2 keep 24-point
    Gauss-Legendre exact to rounding.
    """
    if len(nodes) == 1:
        return -_fall(v, start, stop)[:, None]
    low, high = -math.log(start), -math.log(stop)
    edges = np.linspace(low, high, math.ceil((high - low) / 2.0) + 1)
    half = 0.5 * (edges[1] - edges[0])
    lambdas = (edges[:-1, None] + half * (_NODES + 1.0)).flatten()
    squared = np.exp(-2.0 * lambdas)
    total = v[:, None] + squared
    measure = -half * np.tile(_WEIGHTS, len(edges) - 1) * squared * np.sqrt(v[:, None] + stop**2) / total**1.5
    return measure @ np.array(lagrange([-math.log(sigma) for sigma in nodes], lambdas)).T
