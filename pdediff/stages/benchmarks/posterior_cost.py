"""What a posterior costs, counted where the denoiser is called, and the number of steps that costs a given amount."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pdediff import config as configs
from pdediff.diffusion import Covariance, Denoiser
from pdediff.observe import Observation
from pdediff.posterior import Wrapped
from pdediff.types import Field, Levels

PROBED = (6, 10)
"""Steps of the two short runs from which the cost of a step is read off."""


@dataclass
class Cost:
    """Rows for which the denoiser was evaluated, and through which a gradient was taken."""

    calls: int = 0
    vjps: int = 0

    @property
    def units(self) -> int:
        """One for an evaluation or a gradient of one row."""
        return self.calls + self.vjps


@dataclass(frozen=True, eq=False)
class Counted(Wrapped):
    """A denoiser that counts; its error is what `errors` says."""

    errors: Callable[[float], Covariance]
    cost: Cost = field(default_factory=Cost)

    def error(self, sigma: float) -> Covariance:
        return self.errors(sigma)

    def __call__(self, x: Field, sigma: Levels) -> Field:
        self.cost.calls += len(x)
        denoised = self.prior(x, sigma)
        if denoised.requires_grad:
            denoised.register_hook(self._pulled)
        return denoised

    def _pulled(self, gradient: Tensor) -> None:
        self.cost.vjps += len(gradient)


def counted(prior: Denoiser) -> Counted:
    """A denoiser with its own error, counted."""
    return Counted(prior, prior.error)


def at_cost(
    node: Mapping[str, Any], units: float, prior: Counted, observation: Observation, draws: int
) -> dict[str, Any]:
    """The node with the steps for which one of so many draws costs about `units`; ensembles share their cost.

    Methods without steps, and those that never call the denoiser, are as configured.
    """
    if "steps" not in node:
        return dict(node)
    used = [_units({**node, "steps": steps}, prior, observation, draws) for steps in PROBED]
    step = (used[1] - used[0]) / (PROBED[1] - PROBED[0])
    return {**node, "steps": max(1, round((units - used[0]) / step) + PROBED[0])} if step > 0 else dict(node)


def _units(node: Mapping[str, Any], prior: Counted, observation: Observation, draws: int) -> float:
    probe = Counted(prior.prior, prior.errors)
    configs.build("posterior", node)(probe, observation, draws, 0)
    return probe.cost.units / draws


def capped(node: Mapping[str, Any], sigma_max: float) -> dict[str, Any]:
    """A node that starts from `sigma_max` at most: a given number of steps is better spent below."""
    return {k: min(v, sigma_max) if k == "sigma_max" else v for k, v in node.items()}
