"""The measured error of a denoiser: E (x0 - D)(x0 - D)^T per noise level, stored with the checkpoint.

Guidance, twists and start distributions use it in place of the isotropic variances of image work; its trace is the
denoising loss, so it also says how good the network is at each level.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor

from pdediff.diffusion.cosine_field import CosineCovariance, Margin, inside, known_margin, to_cosines
from pdediff.diffusion.covariance import FourierCovariance, LowRankCovariance, mix
from pdediff.types import Purpose, derive, generator

Measured = LowRankCovariance | FourierCovariance | CosineCovariance

COMPARED = 3
"""Every how many levels two forms of covariance are compared."""

FLOOR = 1e-6
"""Least variance of a direction over the mean: a covariance that is to be inverted leaves none out."""


@dataclass(frozen=True, eq=False)
class CalibratedError:
    """Error covariances at increasing levels, interpolated between them; `prior` is the one at sigma = inf.

    The variance of each harmonic is interpolated log-linearly in log sigma; where the form has none, the trace is, and
    the shape of the covariance linearly. Below the first level it shrinks like sigma^2, from the last one up it stays.
    """

    sigmas: tuple[float, ...]
    covariances: tuple[Measured, ...]
    prior: Measured

    @cached_property
    def _traces(self) -> tuple[float, ...]:
        return tuple(float(c.diagonal().sum()) for c in self.covariances)

    @cached_property
    def _known(self) -> dict[float, Measured]:
        return {}

    def __call__(self, sigma: float) -> Measured:
        if sigma not in self._known:
            self._known[sigma] = self._at(sigma)
        return self._known[sigma]

    def _at(self, sigma: float) -> Measured:
        if sigma <= self.sigmas[0]:
            return self.covariances[0].scaled((sigma / self.sigmas[0]) ** 2)
        if math.isinf(sigma):
            return self.prior
        if sigma >= self.sigmas[-1]:
            return self.covariances[-1]
        i = bisect.bisect_right(self.sigmas, sigma) - 1
        low, high = self.sigmas[i], self.sigmas[i + 1]
        weight = math.log(sigma / low) / math.log(high / low)
        one, other = self.covariances[i], self.covariances[i + 1]
        if not isinstance(one, LowRankCovariance) and not isinstance(other, LowRankCovariance):
            # Modes below the noise keep their variance, those above have its: no straight line between two levels.
            tiny = torch.finfo(one.spectrum.dtype).tiny
            low_log, high_log = (c.spectrum.clamp(min=tiny).log() for c in (one, other))
            return replace(one, spectrum=torch.lerp(low_log, high_log, weight).exp())
        trace_low, trace_high = self._traces[i], self._traces[i + 1]
        trace = math.exp((1 - weight) * math.log(trace_low) + weight * math.log(trace_high))
        shape = mix(one.scaled(1 / trace_low), other.scaled(1 / trace_high), weight)
        return cast(Measured, shape.scaled(trace))

    def tensors(self) -> dict[str, Tensor]:
        """Flat float32 tensors for a checkpoint."""
        out = {"calibration.sigmas": torch.tensor(self.sigmas, dtype=torch.float64)}
        for i, c in enumerate((*self.covariances, self.prior)):
            if isinstance(c, LowRankCovariance):
                parts = {"variance": c.variance, "factor": c.factor}
            else:
                parts = {"cosines" if isinstance(c, CosineCovariance) else "spectrum": c.spectrum}
            if isinstance(c, CosineCovariance):
                out[f"calibration.{i:02d}.margin"] = torch.tensor(c.margin, dtype=torch.int64).reshape(-1, 2)
            out |= {f"calibration.{i:02d}.{name}": t.float().contiguous() for name, t in parts.items()}
        return out

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> CalibratedError:
        """The inverse of `tensors`."""
        sigmas = tuple(float(s) for s in tensors["calibration.sigmas"])
        out: list[Measured] = []
        for i in range(len(sigmas) + 1):
            prefix = f"calibration.{i:02d}."
            if prefix + "spectrum" in tensors:
                out.append(FourierCovariance(tensors[prefix + "spectrum"]))
            elif prefix + "cosines" in tensors:
                margin = tuple((low, high) for low, high in tensors[prefix + "margin"].tolist())
                out.append(CosineCovariance(tensors[prefix + "cosines"], margin))
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
    rest = rest.clamp(min=FLOOR * float(variance.mean()))
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


def cosines(errors: Tensor, margin: Margin = ()) -> CosineCovariance:
    """Mean square of the cosines of the errors: the covariance of errors that know of walls no more than cosines do."""
    total = sum(to_cosines(inside(rows, margin).double()).square().sum(0) for rows in errors.split(512))
    spectrum = torch.as_tensor(total) / len(errors)
    return CosineCovariance(spectrum.clamp(min=FLOOR * float(spectrum.mean())).float(), margin)


def measure(
    errors_at: Callable[[float, int], Tensor],
    prior_fields: Tensor,
    sigmas: Sequence[float],
    *,
    rank: int,
    periodic: bool,
    images: Callable[[Tensor], Tensor] = lambda errors: errors,
) -> CalibratedError:
    """Calibrate from `errors_at(sigma, level_index) -> (n, channel, *space)`, the errors x0 - D on held-out fields.

    `prior_fields` (n, channel, *space) are clean fields with the prior mean taken off: the error at sigma = inf.
    `images` adds what symmetries make of errors. Without periodic edges the form is low rank, or, for one channel, that
    of low rank and cosines under which half of the errors are likelier when it is fitted to the other half. Cosines
    know nothing of how channels depend on each other, which is what readings of one tell of another: their likelihood
    is that of the small scales (on two-phase Darcy flow they doubled the error of the default).
    """
    errors = [errors_at(sigma, i) for i, sigma in enumerate(sigmas)]
    fit: Callable[[Tensor], Measured] = stationary if periodic else partial(low_rank, rank=rank)
    if not periodic and prior_fields.shape[1] == 1:
        margin = known_margin(prior_fields)
        # Compared where fields vary: elsewhere there is no error to be likely.
        halves = [(images(e[::2]), e[1::2].double()) for e in errors[::COMPARED]]
        compared = [(inside(some, margin), inside(rest, margin)) for some, rest in halves]
        forms: tuple[Callable[[Tensor], Measured], ...] = (partial(low_rank, rank=rank), cosines)
        likely = [sum(_log_density(form(some), rest) for some, rest in compared) for form in forms]
        fit = forms[0] if likely[0] >= likely[1] else partial(cosines, margin=margin)
    return CalibratedError(tuple(sigmas), tuple(fit(images(e)) for e in errors), fit(prior_fields))


def _log_density(covariance: Measured, errors: Tensor) -> float:
    """Mean of log N(e; 0, C) over rows, up to a constant."""
    if isinstance(covariance, LowRankCovariance):
        log_det = covariance.log_determinant()
    else:
        log_det = float(covariance.spectrum.double().log().sum())
    return -0.5 * (float((errors * covariance.solve(errors)).flatten(1).sum(1).mean()) + log_det)


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
