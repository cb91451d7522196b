"""The exact posterior of a linear Gaussian time series: Kalman filter, smoother and joint draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.diffusion import Covariance
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.conditioning import gaussian_log_density
from pdediff.posterior.exact import log_volume
from pdediff.posterior.state_space import StateSpace
from pdediff.types import Purpose, derive_many, normal


@dataclass(frozen=True, eq=False)
class Smoothed:
    """Laws of all frames: filtered given the readings so far, smoothed given all; float64.

    filtered, mean: (frame, channel, *space); filtered_covariance, covariance: (frame, d, d); gains (frame - 1, d, d)
    with Cov[x_k, x_(k+1) | y] = gains[k] covariance[k + 1]; predictions (frame, d) are E[x_k | y_1 ... y_(k-1)].
    """

    filtered: Tensor
    filtered_covariance: Tensor
    predictions: Tensor
    gains: Tensor
    rests: Tensor
    mean: Tensor
    covariance: Tensor
    log_evidence: float

    def draw(self, n: int, seed: int) -> Tensor:
        """Joint draws of all frames, (n, frame, channel, *space), by sampling backwards."""
        frames, size = self.predictions.shape
        seeds = derive_many(seed, Purpose.START, range(n))
        noise = normal(seeds, (frames, size), dtype=torch.float64).to(self.predictions)
        last = self.filtered[-1].flatten() + noise[:, -1] @ _root(self.filtered_covariance[-1]).T
        found = [last]
        for k in range(frames - 2, -1, -1):
            mean = self.filtered[k].flatten() + (found[0] - self.predictions[k + 1]) @ self.gains[k].T
            found.insert(0, mean + noise[:, k] @ _root(self.rests[k]).T)
        return torch.stack(found, 1).reshape(n, frames, *self.filtered.shape[1:])


def kalman_smoother(model: StateSpace) -> Smoothed:
    """Filter forwards, smooth backwards (Rauch, Tung and Striebel 1965), and log p(y_1 ... y_K); dense, float64.

    For an affine `step`, linear operators and Gaussian errors, correlated ones too. Raises ConfigError where step or an
    operator is not.
    """
    size, (matrix, offset) = model.mean.numel(), _affine(model)
    error, mean = _matrix(model.error, model), model.mean.double().flatten()
    covariance, evidence, kept = _matrix(model.initial, model), 0.0, []
    for k, observation in enumerate(model.observations):
        if k:
            mean, covariance = matrix @ mean + offset, matrix @ covariance @ matrix.T + error
        predicted = mean, covariance
        if observation is not None:
            mean, covariance, found = _analysis(observation, mean, covariance, model.shape)
            evidence += found
        kept.append((*predicted, mean, covariance))
    smooth, gains, rests = [kept[-1][2:]], [], []
    for k in range(len(kept) - 2, -1, -1):
        before, spread = kept[k + 1][:2]
        mean, covariance = kept[k][2:]
        gain = torch.linalg.lstsq(spread, matrix @ covariance).solution.T
        rests.insert(0, covariance - gain @ spread @ gain.T)
        gains.insert(0, gain)
        after, its_spread = smooth[0]
        smooth.insert(0, (mean + gain @ (after - before), covariance + gain @ (its_spread - spread) @ gain.T))
    none = torch.zeros(0, size, size).to(mean)
    return Smoothed(
        torch.stack([m for _, _, m, _ in kept]).reshape(-1, *model.shape),
        torch.stack([c for _, _, _, c in kept]),
        torch.stack([m for m, _, _, _ in kept]),
        torch.stack(gains) if gains else none,
        torch.stack(rests) if rests else none,
        torch.stack([m for m, _ in smooth]).reshape(-1, *model.shape),
        torch.stack([c for _, c in smooth]),
        evidence,
    )


def _analysis(
    observation: Observation, mean: Tensor, covariance: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, float]:
    """Mean and covariance given one reading, and its log density."""
    if not observation.operator.linear:
        raise ConfigError("the Kalman smoother needs linear operators", hint="use BootstrapFilter")
    white, field = observation.whitened(), mean.reshape(1, *shape)
    rows = white.rows(field[0]).flatten(1)
    factor = torch.linalg.cholesky(rows @ covariance @ rows.T + torch.eye(len(rows)).to(rows))
    residual = white.residual(field)
    cross = torch.linalg.solve_triangular(factor, rows @ covariance, upper=False)
    shift = torch.linalg.solve_triangular(factor, residual.T, upper=False)[:, 0] @ cross
    evidence = float(gaussian_log_density(residual, factor)[0]) + log_volume(observation)
    return mean + shift, covariance - cross.T @ cross, evidence


def _affine(model: StateSpace) -> tuple[Tensor, Tensor]:
    """Matrix (d, d) and offset (d,) of the step, checked at twice the basis."""
    size, shape = model.mean.numel(), model.shape
    basis = torch.eye(size, dtype=torch.float64, device=model.mean.device).reshape(size, *shape)
    offset = model.step(torch.zeros_like(basis[:1])).flatten()
    matrix = model.step(basis).flatten(1) - offset
    twice = model.step(2 * basis + 1).flatten(1)
    expected = offset + 2 * matrix + matrix.sum(0)
    if not bool(torch.isclose(twice, expected, rtol=1e-6, atol=1e-8 * float(expected.abs().max() + 1)).all()):
        raise ConfigError("the Kalman smoother needs an affine step", hint="use BootstrapFilter")
    return matrix.T, offset


def _matrix(covariance: Covariance, model: StateSpace) -> Tensor:
    size = model.mean.numel()
    basis = torch.eye(size, dtype=torch.float64, device=model.mean.device).reshape(size, *model.shape)
    return covariance.matvec(basis).flatten(1)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.T))
    return vectors * values.clamp(min=0).sqrt()
