"""WDNO as a prior of whole trajectories in a wavelet basis, and control as conditioning of that prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from pdediff.diffusion import (
    Denoiser,
    DenoisingLoss,
    NetworkDenoiser,
    NoiseLevels,
    WhiteNoise,
    held_out_errors,
    measure,
    precondition,
)
from pdediff.models.wavelets import Wavelet
from pdediff.observe import GaussianNoise, Observation
from pdediff.observe.operator import Composed, Linear, Scaling
from pdediff.posterior import Posterior
from pdediff.stages.benchmarks.forecast_control_setting import ControlSearch, ControlSetting
from pdediff.types import Field

LEVELS = NoiseLevels(mean=0.3, std=1.8, sigma_min=0.005, sigma_max=80.0)
CALIBRATED = 14
"""Noise levels at which the error of the denoiser is measured."""

RANK = 24
"""Directions of the measured error that are kept, the rest as its diagonal: few against the calibration fields, or what
is kept are accidents of them, and guidance moves the force by these."""


@dataclass(frozen=True)
class Synthesis(Linear):
    """Wavelet coefficients to fields."""

    wavelet: Wavelet

    def __call__(self, x: Field) -> Field:
        return self.wavelet.inverse(x)

    def vjp(self, x: Field, w: Tensor) -> Field:
        return self.wavelet(w)


@dataclass(frozen=True)
class Ends(Linear):
    """First and last state and all forces of trajectories (batch, (u, w), time, x), in a row; the last w is not one."""

    def __call__(self, x: Field) -> Tensor:
        return torch.cat([x[:, 0, 0], x[:, 0, -1], x[:, 1, :-1].flatten(1)], 1)

    def vjp(self, x: Field, w: Tensor) -> Field:
        frames, points = x.shape[2:]
        out = w.new_zeros(len(w), 2, frames, points)
        out[:, 0, 0], out[:, 0, -1] = w[:, :points], w[:, points : 2 * points]
        out[:, 1, :-1] = w[:, 2 * points :].reshape(len(w), frames - 1, points)
        return out


def joined(states: Tensor, forces: Tensor) -> Field:
    """Trajectories (batch, (u, w), frames, points); the last force stands once more, so that there is no jump."""
    return torch.stack([states, torch.cat([forces, forces[:, -1:]], 1)], 1)


@dataclass(frozen=True, eq=False)
class TrajectoryPrior:
    """p(u, w) of trajectories, as a denoiser of coefficients z in units `scale` (2, 1, 1): fields = scale W^T z.

    The control that minimises J from u_0 is that of the likeliest trajectory under p(u, w | u_0) exp(-tilt J). J is
    quadratic in the trajectory, so the tilt is an observation with Gaussian errors: of u(T), of w, and of u_0 with its
    own error; any posterior of the package samples it. For a linear equation, a Gaussian prior and tilt to infinity it
    is the linear-quadratic optimal control.
    """

    denoiser: Denoiser
    wavelet: Wavelet
    scale: Tensor

    @cached_property
    def operator(self) -> Composed:
        """Coefficients to the readings that J and u_0 speak of."""
        return Ends() @ Scaling(torch.zeros_like(self.scale), self.scale) @ Synthesis(self.wavelet)

    def fields(self, z: Field) -> Field:
        """Trajectories of coefficients."""
        return self.scale.to(z) * self.wavelet.inverse(z)

    def observation(self, like: Observation | None, start: Tensor, target: Tensor, std: Tensor) -> Observation:
        """Start and target (points,) seen through errors `std`; `like` another case, whose gains are used again."""
        y = torch.cat([start, target, torch.zeros(len(std) - 2 * len(start), dtype=start.dtype)])
        if like is None:
            return Observation(y, self.operator, GaussianNoise(std))  # type: ignore[arg-type]
        return replace(like, y=y)


def tilted(setting: ControlSetting, search: ControlSearch) -> Tensor:
    """Errors (m,) of `Ends` under which -log p(y | x) is tilt (miss + thrift energy), and those of u_0."""
    one, forces = torch.ones(setting.points, dtype=torch.float64), (setting.frames - 1) * setting.points
    miss = math.sqrt(setting.points / (2 * search.tilt))
    force = math.sqrt(forces / (2 * search.tilt * search.thrift * setting.energy))
    return torch.cat([search.known * one, miss * one, force * torch.ones(forces, dtype=torch.float64)])


def learned(
    fields: Tensor, valid: Tensor, wavelet: Wavelet, train: Callable[[Callable[..., Tensor]], nn.Module], seed: int
) -> TrajectoryPrior:
    """The prior of trajectories (n, 2, frames, points), trained by `train(loss(network, indices, step))`.

    The unit of each field is its standard deviation, so that the noise is white in space and time as well; the error is
    measured on `valid`.
    """
    scale = fields.std((0, 2, 3))[:, None, None]
    z, held = wavelet(fields / scale), wavelet(valid / scale)
    loss = DenoisingLoss(WhiteNoise(), LEVELS, seed)
    network = train(lambda model, indices, step: loss(model, z[indices], step))
    network.requires_grad_(False)
    errors_at = held_out_errors(partial(precondition, network), held, WhiteNoise().sample, seed)
    sigmas = np.geomspace(LEVELS.sigma_min, LEVELS.sigma_max, CALIBRATED).tolist()
    calibration = measure(errors_at, z - z.mean(0), sigmas, rank=RANK, periodic=False)
    denoiser = NetworkDenoiser(network, z.mean(0), WhiteNoise(), calibration)
    return TrajectoryPrior(denoiser, wavelet, scale)


def controls(
    prior: TrajectoryPrior, posterior: Posterior, std: Tensor, draws: int, ends: tuple[Tensor, Tensor], seed: int
) -> tuple[Tensor, Tensor]:
    """Controls (batch, frames - 1, points) of `ends`, starts and targets, and the final states that the prior expects.

    `std` are the errors of the readings (`tilted`). The control is the mean over the draws of its case: for one mode
    the likeliest, and with less energy than any.
    """
    seen, found = None, []
    for case, (start, target) in enumerate(zip(*ends, strict=True)):
        seen = prior.observation(seen, start.double(), target.double(), std)
        found.append(prior.fields(posterior(prior.denoiser, seen, draws, seed + case).x.double()).mean(0))
    fields = torch.stack(found)
    return fields[:, 1, :-1], fields[:, 0, -1]
