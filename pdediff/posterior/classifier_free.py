"""Classifier-free guidance: the difference that a condition makes, amplified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdediff.diffusion import Covariance, Denoiser, NoiseField
from pdediff.errors import ConfigError
from pdediff.observe import Observation
from pdediff.posterior.base import Guidance
from pdediff.posterior.keyed import Keyed
from pdediff.types import Field, Levels, Positive


@dataclass(frozen=True, eq=False)
class ClassifierFree:
    """D_w = D_0 + w (D_c - D_0): w = 1 is the conditional model, w = 0 the unconditional one.

    Ho and Salimans 2022, equation 6, in the convention where their weight is w - 1. Two evaluations. For w outside
    [0, 1] it samples no density that has a name: not q_0^(1 - w) q_c^w, for which weighted particles are needed.
    `ConfigError` for models of different shapes.
    """

    unconditional: Denoiser
    conditional: Denoiser
    weight: float

    def __post_init__(self) -> None:
        if self.unconditional.shape != self.conditional.shape:
            raise ConfigError(
                f"models of {tuple(self.unconditional.shape)} and {tuple(self.conditional.shape)} cannot be combined"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, *space) of one sample."""
        return self.conditional.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.conditional.dtype

    @property
    def device(self) -> torch.device:
        return self.conditional.device

    @property
    def noise(self) -> NoiseField:
        return self.conditional.noise

    @property
    def mean(self) -> Tensor:
        """Combined as the estimates are."""
        return torch.lerp(self.unconditional.mean, self.conditional.mean, self.weight)

    def error_scale(self, denoised: Field, sigma: float) -> Field | None:
        """That of the conditional model."""
        return self.conditional.error_scale(denoised, sigma)

    def error(self, sigma: float) -> Covariance:
        """That of the conditional model: the combination has no error of its own, as it estimates no field."""
        return self.conditional.error(sigma)

    def keyed(self, seeds: Sequence[int]) -> Denoiser:
        """The combination whose parts draw from these seeds, where they draw."""
        first, second = self.unconditional, self.conditional
        first = first.keyed(seeds) if isinstance(first, Keyed) else first
        second = second.keyed(seeds) if isinstance(second, Keyed) else second
        return ClassifierFree(first, second, self.weight)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        return torch.lerp(self.unconditional(x, sigma), self.conditional(x, sigma), self.weight)


@dataclass(frozen=True)
class Amplified:
    """D_w = D + w (D_y - D), D_y by another guidance: `ClassifierFree` with the observation as the condition.

    w below 1 forgives guidance that is too sure, w above 1 sharpens. Good values: 1; 1.4 to 3 for pictures.
    """

    guidance: Guidance
    weight: Positive = 1.0
    exact: ClassVar[bool] = False

    @property
    def linear_only(self) -> bool:
        """As the guidance that it amplifies."""
        return self.guidance.linear_only

    @property
    def needs_vjp(self) -> bool:
        """As the guidance that it amplifies."""
        return self.guidance.needs_vjp

    def __call__(self, prior: Denoiser, observation: Observation) -> Denoiser:
        return ClassifierFree(prior, self.guidance(prior, observation), self.weight)
