"""A state that moves and is seen now and then: the model of filters and smoothers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pdediff.diffusion import Covariance
from pdediff.errors import ConfigError
from pdediff.observe import Observation


@dataclass(frozen=True, eq=False)
class StateSpace:
    """x_1 ~ N(mean, initial), x_(k+1) = step(x_k) + N(0, error), y_k by observations[k]; None where nothing is seen.

    mean (channel, *space); `step` takes rows (k, channel, *space) and must not draw. Raises ConfigError without frames.
    """

    mean: Tensor
    initial: Covariance
    step: Callable[[Tensor], Tensor]
    error: Covariance
    observations: tuple[Observation | None, ...]

    def __post_init__(self) -> None:
        if not self.observations:
            raise ConfigError("a state-space model needs at least one frame")

    @property
    def shape(self) -> tuple[int, ...]:
        """(channel, *space) of one frame."""
        return tuple(self.mean.shape)
