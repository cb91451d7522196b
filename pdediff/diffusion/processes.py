"""Noise processes x_t = alpha(t) x0 + sigma(t) eps of other habits, as maps between their time and our level.

Everything else works in the frame x = x0 + level * eps, level = sigma / alpha. A process says where a level lies on
its own clock, so that networks which know that clock can be called and grids uniform in it can be used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pdediff.errors import ConfigError
from pdediff.types import Positive

Time = Tensor | float
"""Times or levels of any shape; computed in float64, and gradients flow."""


class Process(Protocol):
    """The law of x_t given x0, that of the SDE dx = drift(t) x dt + sqrt(diffusion(t)) dw.

    drift = (log alpha)', diffusion = (sigma^2)' - 2 drift sigma^2 (Song et al. 2021, eq. 5 and 29).
    """

    @property
    def span(self) -> tuple[float, float]:
        """(t_min, t_max) between which samplers usually run."""
        ...

    def alpha(self, t: Time) -> Tensor:
        """Factor of x0."""
        ...

    def sigma(self, t: Time) -> Tensor:
        """Factor of eps."""
        ...

    def level(self, t: Time) -> Tensor:
        """sigma / alpha, by a formula that does not cancel at small t; increasing."""
        ...

    def time(self, level: Time) -> Tensor:
        """The exact inverse of `level`."""
        ...

    def drift(self, t: Time) -> Tensor:
        """f of the SDE."""
        ...

    def diffusion(self, t: Time) -> Tensor:
        """g^2 of the SDE."""
        ...

    def levels(
        self, n: int, t_max: float | None = None, t_min: float | None = None, *, power: float = 1.0
    ) -> list[float]:
        """n + 1 decreasing levels at equal steps of t^(1 / power), for `Sampler.plan`.

        power 1 is uniform in time, 2 quadratic (DDIM, Song et al. 2021, appendix D.2), 7 with `EDM` the grid of Karras
        et al. 2022. The last step of a uniform grid in log level does not shrink with n: samplers of order 2 and more
        extrapolate there, so take power 2 with them. `ConfigError` unless 0 <= t_min < t_max and the levels are finite.
        """
        low = self.span[0] if t_min is None else t_min
        high = self.span[1] if t_max is None else t_max
        if n < 1 or not 0.0 <= low < high < math.inf:
            raise ConfigError(f"a time grid needs n >= 1 and t_max > t_min >= 0, got n={n}, t_max={high}, t_min={low}")
        roots = torch.linspace(high ** (1.0 / power), low ** (1.0 / power), n + 1, dtype=torch.float64)
        # The end points are the caller's numbers, not their rounded images.
        times = torch.cat([real([high]), roots[1:-1] ** power, real([low])])
        found = [float(level) for level in self.level(times)]
        if not math.isfinite(found[0]) or found[0] < 0.0:
            raise ConfigError(
                f"{type(self).__name__} has no finite noise level at t={high:g}",
                hint=f"start before its end, for example at t_max={self.span[1]:g}",
            )
        return found


def real(value: Time | list[float]) -> Tensor:
    """Times or levels as a float64 tensor."""
    return torch.as_tensor(value, dtype=torch.float64)


@dataclass(frozen=True)
class VE(Process):
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t (Song et al. 2021, eq. 9 and 29).

    Good values: sigma_max at least the largest distance between two data, 50 to 350 for images.
    """

    sigma_min: Positive = 0.01
    sigma_max: Positive = 50.0

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ConfigError(f"VE needs 0 < sigma_min < sigma_max, got {self.sigma_min}, {self.sigma_max}")

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def span(self) -> tuple[float, float]:
        return 0.0, 1.0

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(real(t))

    def sigma(self, t: Time) -> Tensor:
        return self.sigma_min * (self._rate * real(t)).exp()

    def level(self, t: Time) -> Tensor:
        return self.sigma(t)

    def time(self, level: Time) -> Tensor:
        return (real(level) / self.sigma_min).log() / self._rate

    def drift(self, t: Time) -> Tensor:
        return torch.zeros_like(real(t))

    def diffusion(self, t: Time) -> Tensor:
        return 2.0 * self._rate * self.sigma(t) ** 2


@dataclass(frozen=True)
class EDM(Process):
    """alpha = 1, sigma = t (Karras et al. 2022, section 4): time is the level. Good values: 0.002 to 80."""

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0

    @property
    def span(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max

    def alpha(self, t: Time) -> Tensor:
        return torch.ones_like(real(t))

    def sigma(self, t: Time) -> Tensor:
        return real(t)

    def level(self, t: Time) -> Tensor:
        return real(t)

    def time(self, level: Time) -> Tensor:
        return real(level)

    def drift(self, t: Time) -> Tensor:
        return torch.zeros_like(real(t))

    def diffusion(self, t: Time) -> Tensor:
        return 2.0 * real(t)


@dataclass(frozen=True)
class Flow(Process):
    """Rectified flow: alpha = 1 - t, sigma = t (Liu et al. 2023, section 2.1, with noise at t = 1).

    Papers that put the noise at t = 0 have t and the sign of the velocity reversed.
    """

    @property
    def span(self) -> tuple[float, float]:
        return 1e-3, 1.0 - 1e-3

    def alpha(self, t: Time) -> Tensor:
        return 1.0 - real(t)

    def sigma(self, t: Time) -> Tensor:
        return real(t)

    def level(self, t: Time) -> Tensor:
        return real(t) / (1.0 - real(t))

    def time(self, level: Time) -> Tensor:
        return 1.0 / (1.0 + 1.0 / real(level))

    def drift(self, t: Time) -> Tensor:
        return -1.0 / (1.0 - real(t))

    def diffusion(self, t: Time) -> Tensor:
        return 2.0 * self.level(t)


@dataclass(frozen=True)
class Trig(Process):
    """alpha = cos t, sigma = sin t, t in [0, pi / 2] (TrigFlow, Lu & Song 2025, section 3, for unit data)."""

    @property
    def span(self) -> tuple[float, float]:
        return 1e-3, math.pi / 2 - 1e-3

    def alpha(self, t: Time) -> Tensor:
        return real(t).cos()

    def sigma(self, t: Time) -> Tensor:
        return real(t).sin()

    def level(self, t: Time) -> Tensor:
        return real(t).tan()

    def time(self, level: Time) -> Tensor:
        return real(level).atan()

    def drift(self, t: Time) -> Tensor:
        return -real(t).tan()

    def diffusion(self, t: Time) -> Tensor:
        return 2.0 * real(t).tan()
