"""A linear combination with one set of numbers for each radial Fourier band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from pdediff.samplers.steps import Band


def band_of(space: Sequence[int]) -> Tensor:
    """Radial wave number round(|k|), k in periods per box, of every mode in fftn order; integers of shape `space`."""
    squared = torch.zeros(tuple(space), dtype=torch.float64)
    for axis, n in enumerate(space):
        k = torch.fft.fftfreq(n, 1.0 / n, dtype=torch.float64)
        squared += (k**2).reshape([-1 if i == axis else 1 for i in range(len(space))])
    return squared.sqrt().round().long()


def apply_band(step: Band, slots: Mapping[str, Tensor], xi: Tensor | None) -> Tensor:
    """The value of `step.dst`; fields (batch, channel, *space), `xi` the noise if any band draws some."""
    first = slots[step.terms[0][0]]
    space = tuple(first.shape[2:])
    dims = tuple(range(2, first.dim()))
    entry = _entries(space, len(step.variances), first.device)
    # Complex transforms: those of real fields round differently in batches of another size.
    total = torch.zeros((), dtype=first.dtype, device=first.device)
    for name, coefficients in step.terms:
        total = total + _numbers(coefficients, first.device, first.dtype)[entry] * torch.fft.fftn(slots[name], dim=dims)
    if xi is not None:
        roots = tuple(math.sqrt(variance) for variance in step.variances)
        total = total + _numbers(roots, first.device, first.dtype)[entry] * torch.fft.fftn(xi, dim=dims)
    return torch.fft.ifftn(total, dim=dims).real


@lru_cache(maxsize=8)
def _entries(space: tuple[int, ...], bands: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return band_of(space).clamp(max=bands - 1).to(device)


@lru_cache(maxsize=1024)  # a plan is run tile after tile: its numbers go to the device once
def _numbers(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # what is kept may be used under autograd later
        return torch.tensor(values, dtype=torch.float64).to(device, dtype)
