"""A network as a denoiser: EDM preconditioning (Karras et al. 2022, table 1 and equation 7)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pdediff.diffusion.calibration import CalibratedError
from pdediff.diffusion.covariance import Covariance
from pdediff.diffusion.denoiser import ShapedByMean, broadcast
from pdediff.diffusion.local_scale import LocalScale
from pdediff.diffusion.noise import NoiseField
from pdediff.types import Field, Levels


def precondition(network: nn.Module, x: Tensor, sigma: Tensor, sigma_data: float = 1.0) -> Tensor:
    """D = c_skip x + c_out F(c_in x, log(sigma) / 4); x (batch, channel, *space), sigma (batch,)."""
    level = broadcast(sigma, x)
    total = (level**2 + sigma_data**2).sqrt()
    output = network(x / total, sigma.to(x).log() / 4)
    return (sigma_data**2 / total**2) * x + (level * sigma_data / total) * output


@dataclass(frozen=True, eq=False)
class NetworkDenoiser(ShapedByMean):
    """A trained network in normalised units, with the error covariance that was measured on held-out fields."""

    network: nn.Module
    mean: Tensor
    noise: NoiseField
    calibration: CalibratedError
    scale: LocalScale | None = None
    sigma_data: float = 1.0

    def __call__(self, x: Field, sigma: Levels) -> Field:
        return precondition(self.network, x, sigma, self.sigma_data)

    def error_scale(self, denoised: Field, sigma: float) -> Field | None:
        return None if self.scale is None else self.scale(denoised, sigma)

    def error(self, sigma: float) -> Covariance:
        return self.calibration(sigma)
