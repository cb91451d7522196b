"""Priors on function space at a coarser grid: the same field without its small scales, and its noise there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor

from pdediff.diffusion import (
    CalibratedError,
    Denoiser,
    DiagonalCovariance,
    FourierCovariance,
    GaussianFieldPrior,
    NetworkDenoiser,
    NoiseField,
)
from pdediff.errors import ConfigError
from pdediff.observe import Linear
from pdediff.types import Field


@singledispatch
def coarsened(prior: Denoiser, space: tuple[int, ...]) -> Denoiser:
    """The prior on the periodic grid `space`, at which it sees the Fourier modes below the Nyquist of that grid.

    Gaussian fields exactly. A network must be one of function space (FNO: its modes must exist on both grids), with
    its error measured as a spectrum. Raises ConfigError for other priors.
    """
    raise ConfigError(
        f"{type(prior).__name__} is no prior on function space: it has one grid", hint="use posterior=fundps"
    )


@coarsened.register
def _(prior: GaussianFieldPrior, space: tuple[int, ...]) -> Denoiser:
    return GaussianFieldPrior(
        Resampling(prior.shape, space)(prior.mean[None])[0], _low(prior.spectrum, space), prior.noise
    )


@coarsened.register
def _(prior: NetworkDenoiser, space: tuple[int, ...]) -> Denoiser:
    known = prior.calibration
    parts = [_spectral(c) for c in (*known.covariances, known.prior)]
    found = [FourierCovariance(_low(c.spectrum, space)) for c in parts]
    mean = Resampling(prior.shape, space)(prior.mean[None])[0]
    return replace(prior, mean=mean, calibration=CalibratedError(known.sigmas, tuple(found[:-1]), found[-1]))


def _spectral(covariance: object) -> FourierCovariance:
    if not isinstance(covariance, FourierCovariance):
        raise ConfigError(
            "two grids need the denoiser's error as a spectrum", hint="train a prior of stationary fields"
        )
    return covariance


def noise_ratio(noise: NoiseField, fine: tuple[int, ...], coarse: tuple[int, ...]) -> float:
    """r with: noise at level s on the grid `coarse` is that at level r s on `fine`, on the modes of both.

    Noise has unit variance at every point of every grid, so what the fine grid adds in small scales it takes from the
    large ones: r^2 is the number of points of the fine over the coarse for white noise, and 1 in the limit of smooth
    noise. Raises ConfigError for noise that is not one law on both grids.
    """
    low, own = _low(_spectrum(noise, fine), coarse[1:]), _spectrum(noise, coarse)
    shared = _shared(fine[1:], coarse[1:]).expand(coarse)
    ratio = (own / low)[shared]
    if float(ratio.max() / ratio.min()) > 1 + 1e-6:
        raise ConfigError(f"{type(noise).__name__} has another law on {coarse[1:]} than on {fine[1:]}")
    return float(ratio.mean()) ** 0.5


def _spectrum(noise: NoiseField, shape: tuple[int, ...]) -> Tensor:
    covariance = noise.covariance(shape)
    if isinstance(covariance, FourierCovariance):
        return covariance.spectrum
    if isinstance(covariance, DiagonalCovariance):
        return covariance.variance
    raise ConfigError(f"two grids need stationary noise, not {type(covariance).__name__}")


def _low(spectrum: Tensor, space: tuple[int, ...]) -> Tensor:
    """Eigenvalues on the coarse grid: a mode's variance is a spectrum's value over the number of points."""
    fine = spectrum.shape[1:]
    for axis, (n, m) in enumerate(zip(fine, space, strict=True), start=1):
        spectrum = spectrum.index_select(axis, _kept(n, m)) * (m / n)
    return spectrum


def _kept(n: int, m: int) -> Tensor:
    """Indices in fftn order on n points of the m modes of the coarse grid."""
    wave = torch.fft.fftfreq(m, 1.0 / m).round().long()
    return wave % n


def _shared(fine: tuple[int, ...], coarse: tuple[int, ...]) -> Tensor:
    """Modes of the coarse grid that are the same on the fine one: all but the coarse Nyquist; (1, *coarse)."""
    mask = torch.ones(1, *coarse, dtype=torch.bool)
    for axis, (n, m) in enumerate(zip(fine, coarse, strict=True), start=1):
        if m < n and m % 2 == 0:
            mask = mask.index_fill(axis, torch.tensor([m // 2]), False)
    return mask


def unseen_modes(fine: tuple[int, ...], coarse: tuple[int, ...]) -> Tensor:
    """1 for the modes of the fine grid that the coarse one does not share, else 0; (1, *fine)."""
    mask = torch.ones(1, *fine, dtype=torch.float64)
    places = torch.meshgrid(*[_kept(n, m) for n, m in zip(fine, coarse, strict=True)], indexing="ij")
    mask[(0, *places)] = 1.0 - _shared(fine, coarse)[0].double()
    return mask


@dataclass(frozen=True)
class Resampling(Linear):
    """A periodic field of `shape` on the grid `space`, mode by mode: band-limited up, truncated down; Nyquist left out.

    The Nyquist mode of the coarser grid is set to zero on the way up and down, so up and down again is the rest.
    """

    shape: tuple[int, ...]
    space: tuple[int, ...]

    def __call__(self, x: Field) -> Field:
        return self._moved(x, self.shape[1:], self.space)

    def vjp(self, x: Field, w: Field) -> Field:
        # The transpose of the map up is the map down times the ratio of points, and the other way round.
        scale = 1.0
        for n, m in zip(self.shape[1:], self.space, strict=True):
            scale *= m / n
        return self._moved(w, self.space, self.shape[1:]) * scale

    @staticmethod
    def _moved(x: Field, source: tuple[int, ...], target: tuple[int, ...]) -> Field:
        dims = tuple(range(2, x.dim()))
        small = tuple(min(n, m) for n, m in zip(source, target, strict=True))
        modes, size = torch.fft.fftn(x, dim=dims, norm="forward"), list(x.shape[:2])
        for axis, (n, s) in enumerate(zip(source, small, strict=True), start=2):
            modes = modes.index_select(axis, _kept(n, s).to(x.device))
        modes = modes * _shared(tuple(map(max, source, target)), small).to(x.device)
        out = torch.zeros(*size, *target, dtype=modes.dtype, device=x.device)
        places = [_kept(m, s) for m, s in zip(target, small, strict=True)]
        out[(..., *torch.meshgrid(*places, indexing="ij"))] = modes
        return torch.fft.ifftn(out, dim=dims, norm="forward").real
