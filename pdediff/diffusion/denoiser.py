"""What a prior is to the rest of the package: a denoiser with a known error.

All levels live in the frame x = x0 + sigma * eps, eps ~ N(0, C). VP, sub-VP, flow and EDM processes are this one
after dividing the state by alpha, with sigma := sigma_t / alpha_t (Karras et al. 2022, appendix B).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pdediff.diffusion.covariance import Covariance
from pdediff.diffusion.noise import NoiseField
from pdediff.types import Field, Levels


class Denoiser(Protocol):
    """The conditional mean E[x0 | x] at any noise level, and the covariance of x0 - E[x0 | x]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, *space) of one sample."""
        ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def noise(self) -> NoiseField: ...

    @property
    def mean(self) -> Tensor:
        """Prior mean, (channel, *space)."""
        ...

    def __call__(self, x: Field, sigma: Levels) -> Field:
        """E[x0 | x0 + sigma * eps = x], each row at its own level."""
        ...

    def error_scale(self, denoised: Field, sigma: float) -> Field | None:
        """Pointwise factors of the error's standard deviation at these denoised fields; None where it is the average.

        With factors s the error given D is taken as N(0, diag(s) C diag(s)), C = `error(sigma)`.
        """
        ...

    def error(self, sigma: float) -> Covariance:
        """Covariance of x0 - D(x0 + sigma * eps, sigma) over prior draws and noise; of the prior at sigma = inf."""
        ...


class ShapedByMean:
    """Base of denoisers that hold their `mean`: shape, dtype and device are its own."""

    mean: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, *space) of one sample."""
        return tuple(self.mean.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    @property
    def device(self) -> torch.device:
        return self.mean.device


def broadcast(sigma: Tensor, x: Tensor) -> Tensor:
    """Levels (batch,) shaped to multiply fields (batch, ...)."""
    return sigma.to(x).reshape(-1, *([1] * (x.dim() - 1)))
