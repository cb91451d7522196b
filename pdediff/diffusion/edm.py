"""A network as a denoiser: EDM preconditioning (Karras et al. 2022, table 1 and equation 7), and one by harmonics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pdediff.diffusion.calibration import CalibratedError
from pdediff.diffusion.cosine_field import inside, padded
from pdediff.diffusion.covariance import Covariance
from pdediff.diffusion.denoiser import ShapedByMean, broadcast
from pdediff.diffusion.local_scale import LocalScale
from pdediff.diffusion.noise import NoiseField
from pdediff.diffusion.spectral_skip import SpectralSkip
from pdediff.types import Field, Levels


def precondition(
    network: nn.Module, x: Tensor, sigma: Tensor, sigma_data: float = 1.0, skip: SpectralSkip | None = None
) -> Tensor:
    """D = c_skip x + c_out F(c_in x, log(sigma) / 4); x (batch, channel, *space), sigma (batch,).

    With a spectral skip W, D = W x + std F(c_in x, W x, log(sigma) / 4): two inputs for every channel, std the error
    of W, so that what F has to give has variance one as well.
    """
    level, label = broadcast(sigma, x), sigma.to(x).log() / 4
    total = (level**2 + sigma_data**2).sqrt()
    if skip is not None:
        linear = skip(x, sigma)
        output = network(torch.cat([x / total, linear], 1), label)
        # What is known of the fields needs no correction.
        output = padded(inside(output, skip.margin), skip.margin)
        return linear + broadcast_channels(skip.std(sigma), x) * output
    output = network(x / total, label)
    return (sigma_data**2 / total**2) * x + (level * sigma_data / total) * output


def broadcast_channels(scale: Tensor, x: Tensor) -> Tensor:
    """Numbers (batch, channel) shaped to multiply fields (batch, channel, *space)."""
    return scale.to(x).reshape(*scale.shape, *([1] * (x.dim() - 2)))


def weight(sigma: Tensor, sigma_data: float = 1.0, skip: SpectralSkip | None = None) -> Tensor:
    """1 / c_out^2, (batch,): the squared error of D times it is that of the network's output.

    With a spectral skip c_out^2 is the mean over the channels: what is left of a smooth channel is noise that no
    network can predict, and would drown the others if it counted as much.
    """
    if skip is not None:
        return 1 / skip.std(sigma).square().mean(1)
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


@dataclass(frozen=True, eq=False)
class NetworkDenoiser(ShapedByMean):
    """A trained network in normalised units, with the error covariance that was measured on held-out fields."""

    network: nn.Module
    mean: Tensor
    noise: NoiseField
    calibration: CalibratedError
    scale: LocalScale | None = None
    sigma_data: float = 1.0
    skip: SpectralSkip | None = None

    def __call__(self, x: Field, sigma: Levels) -> Field:
        return precondition(self.network, x, sigma, self.sigma_data, self.skip)

    def error_scale(self, denoised: Field, sigma: float) -> Field | None:
        return None if self.scale is None else self.scale(denoised, sigma)

    def error(self, sigma: float) -> Covariance:
        return self.calibration(sigma)
