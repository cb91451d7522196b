"""A prior of stacks of slices: the prior of one slice for each, and nothing between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.diffusion import Covariance, Denoiser, NoiseField
from pdediff.posterior.latent import Root, root
from pdediff.types import Field, Levels, PositiveInt, fold


def apart(x: Tensor) -> Tensor:
    """Stacks (k, channel, slice, *space) as rows (k * slice, channel, *space)."""
    return x.movedim(2, 1).flatten(0, 1)


def stacked(rows: Tensor, count: int) -> Tensor:
    """The inverse of `apart`."""
    return rows.unflatten(0, (-1, count)).movedim(1, 2)


@dataclass(frozen=True, eq=False)
class Sliced:
    """`count` independent slices: fields (channel, count, *space) for a `slice` of shape (channel, *space).

    The slices are a batch for the network of one slice. What ties them together comes from the readings and from a
    coupling (`DiffusionMBIR`, `with_residual`).
    """

    slice: Denoiser
    count: PositiveInt

    @property
    def shape(self) -> tuple[int, ...]:
        channels, *space = self.slice.shape
        return (channels, self.count, *space)

    @property
    def dtype(self) -> torch.dtype:
        return self.slice.dtype

    @property
    def device(self) -> torch.device:
        return self.slice.device

    @property
    def noise(self) -> NoiseField:
        return SlicedNoise(self.slice.noise)

    @property
    def mean(self) -> Tensor:
        return self.slice.mean[:, None].expand(self.shape)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        return stacked(self.slice(apart(x), sigma.repeat_interleave(self.count)), self.count)

    def error_scale(self, denoised: Field, sigma: float) -> Field | None:
        scale = self.slice.error_scale(apart(denoised), sigma)
        return None if scale is None else stacked(scale, self.count)

    def error(self, sigma: float) -> Covariance:
        return SlicedCovariance(self.slice.error(sigma), self.count)


@dataclass(frozen=True)
class SlicedNoise:
    """Independent noise of the law `slice` on each slice."""

    slice: NoiseField

    def sample(self, seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        channels, count, *space = shape
        return self.slice.sample(seeds, (channels * count, *space), dtype).unflatten(1, (channels, count))

    def covariance(self, shape: Sequence[int]) -> Covariance:
        channels, count, *space = shape
        return SlicedCovariance(self.slice.covariance((channels, *space)), count)


@dataclass(frozen=True, eq=False)
class SlicedCovariance:
    """The covariance `slice` for each of `count` independent slices."""

    slice: Covariance
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        channels, *space = self.slice.shape
        return (channels, self.count, *space)

    def matvec(self, v: Tensor) -> Tensor:
        return stacked(self.slice.matvec(apart(v)), self.count)

    def draw(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        parts = [self.slice.draw(fold(seeds, number), dtype) for number in range(self.count)]
        return torch.stack(parts, 2)

    def solve(self, v: Tensor) -> Tensor:
        return stacked(self.slice.solve(apart(v)), self.count)

    def diagonal(self) -> Tensor:
        return self.slice.diagonal()[:, None].expand(self.shape)

    def scaled(self, factor: float) -> SlicedCovariance:
        return SlicedCovariance(self.slice.scaled(factor), self.count)


@root.register
def _(covariance: SlicedCovariance) -> Root:
    one, count = root(covariance.slice), covariance.count

    def spread(z: Tensor) -> Tensor:
        return stacked(one.spread(z.reshape(-1, one.size)), count)

    def gather(g: Tensor) -> Tensor:
        return one.gather(apart(g)).reshape(len(g), -1)

    return Root(one.size * count, spread, gather)
