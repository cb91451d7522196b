"""Networks of other habits as denoisers of ours: what they predict, on which clock, in which frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from pdediff.diffusion.calibration import held_out_errors, measure
from pdediff.diffusion.covariance import Covariance
from pdediff.diffusion.denoiser import Denoiser, ShapedByMean, broadcast
from pdediff.diffusion.local_scale import LocalScale
from pdediff.diffusion.noise import NoiseField
from pdediff.diffusion.processes import Process
from pdediff.errors import ConfigError
from pdediff.types import Field, Levels

Prediction = Literal["eps", "x0", "v", "velocity", "score"]
"""eps, x0, v = alpha eps - sigma x0, velocity = eps - x0, or score = grad log p(x_t)."""

_Data = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# D from x, the output, alpha and the level: x_t = alpha x and sigma_t = alpha * level put into the definitions.
# Of the process only alpha is left, so no rounding of its sigma is multiplied by a large level.
_DATA: dict[str, _Data] = {
    "eps": lambda x, out, alpha, level: x - level * out,
    "x0": lambda x, out, alpha, level: out,
    "v": lambda x, out, alpha, level: (x - level / alpha * out) / (1.0 + level**2),
    "velocity": lambda x, out, alpha, level: (x - level * out) / (1.0 + level),
    "score": lambda x, out, alpha, level: x + alpha * level**2 * out,
}


@dataclass(frozen=True, eq=False)
class AdaptedDenoiser(ShapedByMean):
    """A network(x_t, t) of any noise process and prediction as E[x0 | x] at level sigma_t / alpha_t.

    The network is called with x_t = alpha x and its own times t (batch,), in the dtype of x, and its output becomes
    (alpha, level those of the process; Salimans & Ho 2022, section 4, for v; Lipman et al. 2023 for the velocity)

        eps: D = x - level eps               v: D = (x - level v / alpha) / (1 + level^2)
        score: D = x + alpha level^2 C s     velocity: D = (x - level u) / (1 + level)

    with C the covariance of the noise. `errors(sigma)` is the covariance of x0 - D, that of the prior at sigma = inf,
    by `calibrated` once the network is there. `ConfigError` for a prediction that is none of these.
    """

    network: Callable[[Tensor, Tensor], Tensor]
    process: Process
    prediction: Prediction
    mean: Tensor
    noise: NoiseField
    errors: Callable[[float], Covariance]
    scale: LocalScale | None = None

    def __post_init__(self) -> None:
        if self.prediction not in _DATA:
            raise ConfigError(f"a network predicts one of {sorted(_DATA)}, got {self.prediction!r}")

    @cached_property
    def _covariance(self) -> Covariance:
        return self.noise.covariance(self.shape)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        # Time and alpha in float64: near the end of a process their digits are those of the level.
        level = sigma.double()
        time = self.process.time(level)
        alpha = broadcast(self.process.alpha(time), x)
        out = self.network(alpha * x, time.to(x))
        if self.prediction == "score":
            out = self._covariance.matvec(out)
        return _DATA[self.prediction](x, out, alpha, broadcast(level, x))

    def error_scale(self, denoised: Field, sigma: float) -> Field | None:
        return None if self.scale is None else self.scale(denoised, sigma)

    def error(self, sigma: float) -> Covariance:
        return self.errors(sigma)

    def calibrated(
        self, fields: Field, sigmas: Sequence[float], *, seed: int = 0, rank: int = 32, periodic: bool = False
    ) -> AdaptedDenoiser:
        """This denoiser with its error covariance measured on held-out clean `fields`, at increasing levels.

        Stationary for `periodic` fields, else of this rank beside its diagonal (see `measure`). Good values: a few
        hundred fields, a dozen levels in equal ratios over those that samplers use.
        """
        errors_at = held_out_errors(self, fields, self.noise.sample, seed)
        return replace(self, errors=measure(errors_at, fields - self.mean, sigmas, rank=rank, periodic=periodic))


@dataclass(frozen=True, eq=False)
class Affine:
    """The denoiser of x0 = shift + scale * z0 from that of z0: residual and mean-reverting diffusion, units.

    D(x, sigma) = shift + scale D_z((x - shift) / scale, sigma / scale), error covariance scale^2 times that of z0
    (MR sampler, Li et al. 2025, is every sampler on this). The noise keeps its law. `shift` is a number, a field
    (channel, *space), or one field for each row (batch, channel, *space), as `given` binds it; `mean` then has rows
    too. `ConfigError` unless scale > 0.

    Good values: shift the coarse solution, the interpolation or the forecast of which z0 is the residual.
    """

    denoiser: Denoiser
    shift: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0.0:
            raise ConfigError(f"Affine needs scale > 0, got {self.scale}")

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, *space) of one sample."""
        return self.denoiser.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.dtype

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    @property
    def noise(self) -> NoiseField:
        return self.denoiser.noise

    @property
    def mean(self) -> Tensor:
        mean = self.denoiser.mean
        return self.shift.to(mean) + self.scale * mean

    def given(self, shift: Tensor) -> Affine:
        """The same residual prior around another `shift`."""
        return replace(self, shift=shift)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        shift = self.shift.to(x)
        return shift + self.scale * self.denoiser((x - shift) / self.scale, sigma / self.scale)

    def error_scale(self, denoised: Field, sigma: float) -> Field | None:
        """That of z0: a factor has no unit."""
        return self.denoiser.error_scale((denoised - self.shift.to(denoised)) / self.scale, sigma / self.scale)

    def error(self, sigma: float) -> Covariance:
        return self.denoiser.error(sigma / self.scale).scaled(self.scale**2)
