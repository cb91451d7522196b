"""The measured error of a denoiser: E (x0 - D)(x0 - D)^T per noise level, stored with the checkpoint.

Guidance, twists and start distributions use it in place of the isotropic variances of image work; its trace is the
denoising loss, so it also says how good the network is at each level.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor

from pdediff.diffusion.covariance import FourierCovariance, LowRankCovariance, mix
from pdediff.types import Purpose, derive, generator


@dataclass(frozen=True, eq=False)
class CalibratedError:
    """Error covariances at increasing levels, interpolated between them; `prior` is the one at sigma = inf.

    The trace is interpolated log-linearly in log sigma, the shape of the covariance linearly; below the first level
    it shrinks like sigma^2, from the last one up it stays.
    """

    sigmas: tuple[float, ...]
    covariances: tuple[LowRankCovariance | FourierCovariance, ...]
    prior: LowRankCovariance | FourierCovariance

    @cached_property
    def _traces(self) -> tuple[float, ...]:
        return tuple(float(c.diagonal().sum()) for c in self.covariances)

    @cached_property
    def _known(self) -> dict[float, LowRankCovariance | FourierCovariance]:
        return {}

    def __call__(self, sigma: float) -> LowRankCovariance | FourierCovariance:
        if sigma not in self._known:
            self._known[sigma] = self._at(sigma)
        return self._known[sigma]

    def _at(self, sigma: float) -> LowRankCovariance | FourierCovariance:
        if sigma <= self.sigmas[0]:
            return self.covariances[0].scaled((sigma / self.sigmas[0]) ** 2)
        if math.isinf(sigma):
            return self.prior
        if sigma >= self.sigmas[-1]:
            return self.covariances[-1]
        i = bisect.bisect_right(self.sigmas, sigma) - 1
        low, high = self.sigmas[i], self.sigmas[i + 1]
        weight = math.log(sigma / low) / math.log(high / low)
        trace_low, trace_high = self._traces[i], self._traces[i + 1]
        trace = math.exp((1 - weight) * math.log(trace_low) + weight * math.log(trace_high))
        shape = mix(self.covariances[i].scaled(1 / trace_low), self.covariances[i + 1].scaled(1 / trace_high), weight)
        return cast(LowRankCovariance | FourierCovariance, shape.scaled(trace))

    def tensors(self) -> dict[str, Tensor]:
        """Flat float32 tensors for a checkpoint."""
        out = {"calibration.sigmas": torch.tensor(self.sigmas, dtype=torch.float64)}
        for i, c in enumerate((*self.covariances, self.prior)):
            names = ("spectrum",) if isinstance(c, FourierCovariance) else ("variance", "factor")
            parts = {name: getattr(c, name) for name in names}
            out |= {f"calibration.{i:02d}.{name}": t.float().contiguous() for name, t in parts.items()}
        return out

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> CalibratedError:
        """The inverse of `tensors`."""
        sigmas = tuple(float(s) for s in tensors["calibration.sigmas"])
        out: list[LowRankCovariance | FourierCovariance] = []
        for i in range(len(sigmas) + 1):
            prefix = f"calibration.{i:02d}."
            if prefix + "spectrum" in tensors:
                out.append(FourierCovariance(tensors[prefix + "spectrum"]))
            else:
                out.append(LowRankCovariance(tensors[prefix + "variance"], tensors[prefix + "factor"]))
        return CalibratedError(sigmas, tuple(out[:-1]), out[-1])


def low_rank(errors: Tensor, rank: int) -> LowRankCovariance:
    """Leading `rank` directions of E e e^T kept, the rest as its diagonal; errors (n, channel, *space)."""
    n, shape = len(errors), errors.shape[1:]
    flat = errors.flatten(1).double() / math.sqrt(n)
    rank = min(rank, n - 1, flat.shape[1] - 1)
    factor = _leading(flat, rank)
    variance = (flat**2).sum(0)
    rest = (variance - (factor**2).sum(0)).clamp(min=0)
    # A floor keeps the covariance invertible where the leading directions explain everything.
    rest = rest.clamp(min=1e-6 * float(variance.mean()))
    return LowRankCovariance(rest.reshape(shape).float(), factor.reshape(rank, *shape).float())


def _leading(flat: Tensor, rank: int, *, exact_up_to: int = 512, iterations: int = 6) -> Tensor:
    """Principal directions (rank, d) of rows (n, d), scaled by their singular values.

    Small problems by an eigendecomposition; large ones by subspace iteration from a fixed start with 16 spare
    directions, which finds a decaying spectrum to far below the sampling error of the rows (Halko et al. 2011, 5.4).
    """
    if rank == 0:
        return flat[:0]
    if min(flat.shape) <= exact_up_to:
        if flat.shape[0] < flat.shape[1]:
            return torch.linalg.eigh(flat @ flat.T)[1][:, -rank:].T @ flat
        values, vectors = torch.linalg.eigh(flat.T @ flat)
        return values[-rank:].clamp(min=0).sqrt()[:, None] * vectors[:, -rank:].T
    rows = flat.float()
    basis = torch.randn(rows.shape[1], min(rank + 16, *rows.shape), generator=generator(0))
    for _ in range(iterations):
        basis = torch.linalg.qr(rows.T @ (rows @ basis))[0]
    values, vectors = torch.linalg.eigh((rows @ basis).double().T @ (rows @ basis).double())
    directions = basis.double() @ vectors[:, -rank:]
    return values[-rank:].clamp(min=0).sqrt()[:, None] * directions.T


def stationary(errors: Tensor) -> FourierCovariance:
    """Mean periodogram of the errors: the covariance of a periodic, translation-invariant error."""
    modes = torch.fft.fftn(errors.double(), dim=tuple(range(2, errors.dim())), norm="ortho")
    return FourierCovariance((modes.abs() ** 2).mean(0).float())


def measure(
    errors_at: Callable[[float, int], Tensor],
    prior_fields: Tensor,
    sigmas: Sequence[float],
    *,
    rank: int,
    periodic: bool,
) -> CalibratedError:
    """Calibrate from `errors_at(sigma, level_index) -> (n, channel, *space)`, the errors x0 - D on held-out fields.

    `prior_fields` (n, channel, *space) are clean fields with the prior mean taken off: the error at sigma = inf.
    """
    fit = stationary if periodic else partial(low_rank, rank=rank)
    found = tuple(fit(errors_at(sigma, i)) for i, sigma in enumerate(sigmas))
    return CalibratedError(tuple(sigmas), found, fit(prior_fields))


def held_out_errors(
    denoise: Callable[[Tensor, Tensor], Tensor],
    fields: Tensor,
    noise: Callable[[Sequence[int], Sequence[int]], Tensor],
    seed: int,
    *,
    tile: int = 64,
) -> Callable[[float, int], Tensor]:
    """The function that `measure` needs, for clean held-out `fields` (n, channel, *space) and keyed noise."""

    @torch.no_grad()
    def errors_at(sigma: float, level: int) -> Tensor:
        out = []
        for start in range(0, len(fields), tile):
            x0 = fields[start : start + tile]
            seeds = [derive(seed, Purpose.CALIBRATION, level, start + i) for i in range(len(x0))]
            x = x0 + sigma * noise(seeds, x0.shape[1:]).to(x0)
            out.append(x0 - denoise(x, torch.full((len(x0),), sigma, dtype=x0.dtype, device=x0.device)))
        return torch.cat(out)

    return errors_at
