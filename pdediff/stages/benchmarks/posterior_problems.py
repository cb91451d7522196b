"""Linear inverse problems with exact answers: mixtures of Gaussians in 64 dimensions, seen through ten readings."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property

import torch
from torch import Tensor

from pdediff.diffusion import DenseCovariance, GaussianMixturePrior, GaussianPrior
from pdediff.diffusion.covariance import mix
from pdediff.observe import GaussianNoise, Linear, Observation
from pdediff.stages.benchmarks.posterior_cost import Counted
from pdediff.types import Field, NonNegative, Positive, PositiveInt, Purpose, Seed, derive, derive_many, generator

SEARCHED = 2000
"""Candidates among which problems with the wanted number of modes are looked for."""

LEVELS = 24
TRIALS = 4096
"""Levels at which the error of the denoiser is measured, and draws for it: what a checkpoint would hold."""


@dataclass(frozen=True)
class MixtureLaw:
    """`components` equal Gaussians, means N(0, `means`^2), covariances of spectrum 1 / k in random bases.

    The covariances have trace `trace`; H is readings x dimension of N(0, 1 / dimension), noise of standard deviation
    `noise`. Kept are problems whose number of effective posterior modes, 1 / sum of squared weights, is within `modes`.
    Good values: those of the defaults, which have a floor and published methods measured on them.
    """

    components: PositiveInt = 8
    dimension: PositiveInt = 64
    readings: PositiveInt = 10
    means: NonNegative = 0.28
    trace: Positive = 16.0
    noise: Positive = 0.1
    modes: tuple[Positive, Positive] = (2.3, 3.3)
    seed: Seed = 0


@dataclass(frozen=True, eq=False)
class Matrix(Linear):
    """Readings of the flattened field by a full matrix (m, d)."""

    matrix: Tensor

    def __call__(self, x: Field) -> Tensor:
        return x.flatten(1) @ self.matrix.to(x).T

    def vjp(self, x: Field, w: Tensor) -> Field:
        return (w @ self.matrix.to(w)).reshape(x.shape)


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior, one observation of it, and the exact answer, all in float64."""

    prior: GaussianMixturePrior
    observation: Observation
    posterior: GaussianMixturePrior
    log_evidence: float

    @cached_property
    def mean(self) -> Tensor:
        """Exact posterior mean (d,)."""
        return self.posterior.mean.flatten()

    @cached_property
    def variance(self) -> float:
        """Exact posterior variance, summed over the dimensions."""
        within = self.posterior.covariances.diagonal(dim1=1, dim2=2).sum(1)
        between = (self.posterior.means.flatten(1) - self.mean).square().sum(1)
        return float(self.posterior.weights @ (within + between))

    @cached_property
    def errors(self) -> Callable[[float], DenseCovariance]:
        """Covariance of the denoiser's error: in closed form for one component, else measured once."""
        if len(self.prior.weights) == 1:
            return GaussianPrior(self.prior.means[0], self.prior.covariances[0]).error
        return MeasuredError(_single(self.prior))

    def denoiser(self) -> Counted:
        """The prior in single precision, as a network would be, which counts what is asked of it."""
        return Counted(_single(self.prior), self.errors)

    def exact(self, draws: int, seed: int) -> Tensor:
        """Posterior draws (draws, d)."""
        return self.posterior.sample(derive_many(seed, Purpose.START, range(draws))).flatten(1)

    def mode_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        """Weight of each posterior component over draws x (n, d) of weights (n,)."""
        at = torch.zeros(len(x), dtype=x.dtype)
        joint = (
            torch.stack([p.log_prob(x[:, None], at) for p in self._components]) + self.posterior.weights.log()[:, None]
        )
        return joint.softmax(0) @ weights

    @cached_property
    def _components(self) -> list[GaussianPrior]:
        pairs = zip(self.posterior.means, self.posterior.covariances, strict=True)
        return [GaussianPrior(mean, covariance) for mean, covariance in pairs]


@dataclass(frozen=True, eq=False)
class RootedCovariance(DenseCovariance):
    """A full matrix that keeps its root for the next draw."""

    @cached_property
    def _root(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.matrix)
        return vectors * values.clamp(min=0).sqrt()

    def sqrt(self, v: Tensor) -> Tensor:
        return (v.flatten(1) @ self._root.T.to(v.dtype)).reshape(v.shape)


@dataclass(frozen=True, eq=False)
class MeasuredError:
    """Error covariances at `LEVELS` levels from `TRIALS` draws; between them the logarithm of the trace and the shape
    divided by it are interpolated linearly in log sigma, below the first they shrink like sigma^2."""

    prior: GaussianMixturePrior
    known: dict[float, RootedCovariance] = field(default_factory=dict)

    @cached_property
    def levels(self) -> list[float]:
        """From a hundredth of the data to eighty times them."""
        size = float(self.prior.covariances.diagonal(dim1=1, dim2=2).mean()) ** 0.5
        return [size * 10 ** (-2 + 3.9 * i / (LEVELS - 1)) for i in range(LEVELS)]

    @cached_property
    def _table(self) -> list[DenseCovariance]:
        return [self._measured(sigma) for sigma in self.levels]

    def __call__(self, sigma: float) -> DenseCovariance:
        if sigma not in self.known:
            self.known[sigma] = RootedCovariance(self._at(sigma).matrix, self.prior.shape)
        return self.known[sigma]

    def _at(self, sigma: float) -> DenseCovariance:
        if sigma <= self.levels[0]:
            return self._table[0].scaled((sigma / self.levels[0]) ** 2)
        if sigma >= self.levels[-1]:
            return self._prior
        i = bisect.bisect_right(self.levels, sigma) - 1
        low, high = self._table[i], self._table[i + 1]
        weight = math.log(sigma / self.levels[i]) / math.log(self.levels[i + 1] / self.levels[i])
        traces = [float(c.diagonal().sum()) for c in (low, high)]
        shape = mix(low.scaled(1 / traces[0]), high.scaled(1 / traces[1]), weight)
        assert isinstance(shape, DenseCovariance)
        return shape.scaled(traces[0] ** (1 - weight) * traces[1] ** weight)

    @cached_property
    def _trials(self) -> tuple[Tensor, Tensor]:
        g = generator(derive(0, Purpose.CALIBRATION))
        x0 = self.prior.sample(derive_many(0, Purpose.CALIBRATION, range(TRIALS)))
        return x0, torch.randn(x0.shape, generator=g, dtype=x0.dtype)

    @cached_property
    def _prior(self) -> DenseCovariance:
        """That of infinite noise."""
        return self._covariance((self._trials[0] - self.prior.mean).flatten(1))

    def _measured(self, sigma: float) -> DenseCovariance:
        x0, eps = self._trials
        denoised = self.prior(x0 + sigma * eps, torch.full((len(x0),), sigma, dtype=x0.dtype))
        return self._covariance((x0 - denoised).flatten(1))

    def _covariance(self, errors: Tensor) -> DenseCovariance:
        errors = errors.double()
        return DenseCovariance(errors.T @ errors / len(errors), self.prior.shape)


def _single(prior: GaussianMixturePrior) -> GaussianMixturePrior:
    return GaussianMixturePrior(prior.weights.float(), prior.means.float(), prior.covariances.float())


@cache
def problems(law: MixtureLaw, count: int) -> tuple[Problem, ...]:
    """The first `count` problems of this law that have the wanted number of modes."""
    found: list[Problem] = []
    for index in range(SEARCHED):
        made = _drawn(law, derive(law.seed, Purpose.PROBLEM, index))
        modes = 1 / float(made.posterior.weights.square().sum())
        if law.components == 1 or law.modes[0] <= modes <= law.modes[1]:
            found.append(made)
        if len(found) == count:
            return tuple(found)
    raise ValueError(f"{len(found)} of {SEARCHED} problems have {law.modes[0]:g} to {law.modes[1]:g} posterior modes")


def _drawn(law: MixtureLaw, seed: int) -> Problem:
    g, d, m = generator(seed), law.dimension, law.readings

    def normals(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    means = law.means * normals(law.components, 1, d)
    spectrum = 1 / torch.arange(1, d + 1, dtype=torch.float64)
    root = (law.trace * spectrum / spectrum.sum()).sqrt() * torch.linalg.qr(normals(law.components, d, d)).Q
    weights = torch.full((law.components,), 1 / law.components, dtype=torch.float64)
    prior = GaussianMixturePrior(weights, means, root @ root.mT)
    matrix, which = normals(m, d) / math.sqrt(d), int(torch.randint(law.components, (), generator=g))
    truth = means[which, 0] + root[which] @ normals(d)
    y = matrix @ truth + law.noise * normals(m)
    noise = torch.full((m,), law.noise, dtype=torch.float64)
    posterior, evidence = prior.condition(matrix, y, torch.diag(noise**2))
    return Problem(prior, Observation(y, Matrix(matrix), GaussianNoise(noise)), posterior, evidence)
