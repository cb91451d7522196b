"""A plan on a Gaussian prior: exact mean and covariance of its output, without sampling.

Every step but a `Kick` is affine in the state, the history and the noise, and so is the denoiser of a Gaussian prior.
Weak errors of stochastic samplers are therefore exact numbers. For any prior covariance C and noise covariance N
the generalised eigenvectors of (C, N) decouple the modes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pdediff.errors import ConfigError
from pdediff.samplers.plan import STATE, Plan
from pdediff.samplers.steps import Band, Eval, Kick, Lin


@dataclass(frozen=True)
class Response:
    """Result of a plan, mode by mode: gain * (start - mean) + shift * mean + sum_k noise[:, k] xi_k.

    Arrays of shape (modes,), (modes,) and (modes, noises); xi_k are independent standard normals.
    """

    gain: np.ndarray
    shift: np.ndarray
    noise: np.ndarray

    def variance(self, start: np.ndarray) -> np.ndarray:
        """Variance of the result when the start has variance `start`, (modes,)."""
        return self.gain**2 * start + (self.noise**2).sum(1)


def response(plan: Plan, variances: np.ndarray, bands: np.ndarray | None = None) -> Response:
    """The plan folded on modes of prior variance v under unit noise: D = mean + v / (v + sigma^2) (x - mean).

    A plan with `Band` steps needs `bands`, the radial wave number of each mode, (modes,) of integers; `ConfigError`
    without, and for a plan that is not affine (`Kick`) or starts from more than a state.
    """
    if plan.inputs != (STATE,):
        raise ConfigError(f"the response needs a plan that starts from a state, got inputs {plan.inputs}")
    v = np.asarray(variances, dtype=np.float64)[:, None]
    noisy = (step for step in plan.steps if isinstance(step, (Lin, Band)) and np.any(_variance(step)))
    column = {key: 2 + i for i, key in enumerate(sorted({step.key for step in noisy}))}
    start = np.zeros((len(v), 2 + len(column)))
    start[:, :2] = 1.0
    slots = {STATE: start}
    for number, step in enumerate(plan.steps):
        if isinstance(step, Kick):
            raise ConfigError(f"plan step {number} is a kernel {step.kernel!r}, which has no exact response")
        if isinstance(step, Eval):
            gain = v / (v + step.level**2)
            out = gain * slots[step.src]
            out[:, 1:2] += 1.0 - gain
        else:
            out = _affine(step, slots, column, bands)
        slots[step.dst] = out
    result = slots[STATE]
    return Response(result[:, 0], result[:, 1], result[:, 2:])


def _variance(step: Lin | Band) -> np.ndarray:
    return np.asarray(step.variance if isinstance(step, Lin) else step.variances)


def _affine(
    step: Lin | Band, slots: dict[str, np.ndarray], column: dict[int, int], bands: np.ndarray | None
) -> np.ndarray:
    out = np.zeros_like(slots[STATE])
    if isinstance(step, Lin):
        for name, c in step.terms:
            out += c * slots[name]
        entry = np.zeros(len(out), dtype=int)
    elif bands is None:
        raise ConfigError("a plan with numbers for each Fourier band needs the bands of the modes")
    else:
        entry = np.minimum(bands, len(step.variances) - 1)
        for name, cs in step.terms:
            out += np.asarray(cs)[entry][:, None] * slots[name]
    variance = np.atleast_1d(_variance(step))[entry]
    if np.any(variance > 0.0):
        out[:, column[step.key]] += np.sqrt(variance)
    return out


def moments(
    plan: Plan,
    mean: np.ndarray,
    covariance: np.ndarray,
    noise_covariance: np.ndarray | None = None,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean (d,) and covariance (d, d) of the plan's output for the prior N(mean, covariance).

    `noise_covariance` is that of eps (identity when absent). `start` is mean and covariance at the first level; by
    default the exact marginal N(mean, covariance + sigma^2 noise_covariance).
    """
    noise = np.eye(len(mean)) if noise_covariance is None else noise_covariance
    factor = np.linalg.cholesky(noise)
    whitened = np.linalg.solve(factor, np.linalg.solve(factor, covariance).T)
    values, vectors = np.linalg.eigh(0.5 * (whitened + whitened.T))
    to_field = factor @ vectors
    to_modes = np.linalg.inv(to_field)
    mean_start, covariance_start = start or (mean, covariance + plan.levels[0] ** 2 * noise)
    found = response(plan, np.clip(values, 0.0, None))
    gain = to_field @ (found.gain[:, None] * to_modes)
    shift = to_field @ (found.shift[:, None] * to_modes)
    out = gain @ covariance_start @ gain.T + (to_field * (found.noise**2).sum(1)) @ to_field.T
    return gain @ (mean_start - mean) + shift @ mean, 0.5 * (out + out.T)
