"""3D-Var: analyses with one fixed background covariance; the cheapest assimilation that is used in earnest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pdediff.diffusion import Covariance
from pdediff.errors import ConfigError
from pdediff.posterior.conditioning import Conditioning
from pdediff.posterior.state_space import StateSpace


@dataclass(frozen=True, eq=False)
class ThreeDVar:
    """x <- x_f + B H^T (R + H B H^T)^-1 (y - H x_f), x_f the model's forecast (Lorenc 1986, equation 23).

    `background` B is the covariance of forecast errors, the same at all times: for example that of the climate times
    the square of the errors' relative size. One model run, one solve in the space of the readings; no spread.
    ConfigError for nonlinear operators.
    """

    background: Covariance

    @torch.no_grad()
    def __call__(self, model: StateSpace) -> Tensor:
        """Analyses (frame, channel, *space), float64; frames without readings are forecasts."""
        x, kept = model.mean.double()[None], []
        for k, observation in enumerate(model.observations):
            if k:
                x = model.step(x)
            if observation is not None:
                if not observation.operator.linear:
                    raise ConfigError("ThreeDVar needs linear operators", hint="use EnsembleKalmanFilter")
                covariance = model.initial if k == 0 else self.background
                made = Conditioning.of(observation, covariance, observation.rows(x[0]))
                x = made.update(x, observation.residual(x))
            kept.append(x[0])
        return torch.stack(kept)
