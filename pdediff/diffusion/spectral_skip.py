"""The linear part of a denoiser, fitted to fields: what a network then has to learn is the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.diffusion.cosine_field import Margin, from_cosines, inside, known_margin, padded, to_cosines
from pdediff.diffusion.covariance import DiagonalCovariance, FourierCovariance
from pdediff.diffusion.denoiser import broadcast
from pdediff.diffusion.noise import NoiseField
from pdediff.types import Field, Levels

DRAWS = 512
"""Noise fields from which the power of a noise is taken in a basis that is not its own."""

ROWS = 512
"""Fields that are transformed at once: more would only need memory."""


@dataclass(frozen=True, eq=False)
class SpectralSkip:
    """W(x) = m + S (S + sigma^2 N)^-1 (x - m): the best linear denoiser that treats every harmonic on its own.

    S and N are the covariances of fields and noise, mode by mode: a matrix over the channels and a number. Modes are
    Fourier's where all dims are periodic, else cosines, which need no periodic edge, on the box in which fields vary
    (outside of its `margin` they are known: W is m). `values` (*space, channel) of the box and
    `vectors` (*space, channel, channel) are the eigenvalues and eigenvectors of S, `power` (*space) is N. For Gaussian
    fields that are stationary, or as smooth at walls as cosines, W is the exact denoiser; for all others it errs less
    than c_skip x of Karras et al. 2022, which is one such filter. Source: Wiener 1949; the one-matrix case of
    Vincent et al. 2024 (Gaussian approximation of denoisers at high noise).
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor
    power: Tensor
    periodic: bool
    margin: Margin = ()

    @staticmethod
    def of(fields: Tensor, noise: NoiseField, *, periodic: bool) -> SpectralSkip:
        """From clean fields (n, channel, *space) and the noise that a denoiser will see."""
        mean, margin = fields.mean(0), () if periodic else known_margin(fields)
        channels, space = fields.shape[1], inside(fields[:1], margin).shape[2:]
        total = torch.zeros(channels, channels, *space, dtype=torch.float64)
        for rows in (fields - mean).split(ROWS):
            modes = _to_modes(inside(rows, margin).double(), periodic)
            # Of a Hermitian matrix only the real part counts for a filter that is real in every mode.
            total += torch.einsum("nc...,nd...->cd...", modes, modes.conj()).real
        matrices = (total / len(fields)).movedim((0, 1), (-2, -1))
        values, vectors = torch.linalg.eigh(matrices)
        power = _power(noise, (1, *space), periodic)
        return SpectralSkip(mean, values.clamp(min=0).float(), vectors.float(), power.float(), periodic, margin)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        """W(x), each row at its own level."""
        modes = _to_modes(inside(x - self.mean.to(x), self.margin), self.periodic)
        vectors = self.vectors.to(modes)
        along = torch.einsum("...cd,nc...->nd...", vectors, modes)
        kept = torch.einsum("...cd,nd...->nc...", vectors, along * self._gain(sigma.to(x)).to(modes))
        return self.mean.to(x) + padded(_from_modes(kept, self.periodic), self.margin)

    def std(self, sigma: Levels) -> Tensor:
        """Root mean square error of W by channel, (batch, channel), over fields of the covariance it was made from.

        Of the points of the box: at those outside there is none.
        """
        noise = (broadcast(sigma, self.values[None]) ** 2 * self.power[..., None]).to(self.values)
        lost = self.values * noise / (self.values + noise).clamp(min=1e-30)
        variance = torch.einsum("...cd,n...d->nc...", self.vectors**2, lost)
        return variance.flatten(2).mean(2).clamp(min=1e-20).sqrt()

    def _gain(self, sigma: Tensor) -> Tensor:
        """S / (S + sigma^2 N) along the eigenvectors, (batch, channel, *space)."""
        values = self.values.movedim(-1, 0).to(sigma)
        noise = broadcast(sigma, values[None]) ** 2 * self.power.to(sigma)
        return values / (values + noise).clamp(min=1e-30)

    def tensors(self) -> dict[str, Tensor]:
        """Flat tensors for a checkpoint."""
        parts = {"mean": self.mean.float(), "values": self.values, "vectors": self.vectors, "power": self.power}
        parts["margin"] = torch.tensor(self.margin, dtype=torch.int64).reshape(-1, 2)
        return {f"skip.{name}": t.contiguous() for name, t in parts.items()}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], *, periodic: bool) -> SpectralSkip | None:
        """The inverse of `tensors`; None where there are none."""
        if "skip.mean" not in tensors:
            return None
        parts = (tensors[f"skip.{name}"] for name in ("mean", "values", "vectors", "power"))
        margin = tuple((low, high) for low, high in tensors["skip.margin"].tolist())
        return SpectralSkip(*parts, periodic=periodic, margin=margin)

    def to(self, device: torch.device | str) -> SpectralSkip:
        """The same on a device."""
        moved = (t.to(device) for t in (self.mean, self.values, self.vectors, self.power))
        return SpectralSkip(*moved, periodic=self.periodic, margin=self.margin)


def _power(noise: NoiseField, shape: tuple[int, ...], periodic: bool) -> Tensor:
    """Mean square of the modes of unit noise, (*space)."""
    covariance = noise.covariance(shape)
    if isinstance(covariance, DiagonalCovariance):  # white: the same in every orthonormal basis
        return torch.full(shape[1:], float(covariance.variance.mean()))
    if isinstance(covariance, FourierCovariance) and periodic:
        return covariance.spectrum[0]
    return _to_modes(noise.sample(range(DRAWS), shape).double(), periodic).abs().square().mean(0)[0]


def _to_modes(x: Tensor, periodic: bool) -> Tensor:
    return torch.fft.fftn(x, dim=tuple(range(2, x.dim())), norm="ortho") if periodic else to_cosines(x)


def _from_modes(modes: Tensor, periodic: bool) -> Tensor:
    if not periodic:
        return from_cosines(modes)
    return torch.fft.ifftn(modes, dim=tuple(range(2, modes.dim())), norm="ortho").real
