"""The next frame by conditional diffusion of the difference, with EDM preconditioning and any sampler."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pdediff.diffusion import NoiseLevels, broadcast
from pdediff.models.forecasters.base import Dynamics, Frames, labels, stacked
from pdediff.models.forecasters.conditional import Conditional
from pdediff.types import Purpose, derive, normal


@dataclass(frozen=True)
class ResidualDiffusion(Conditional):
    """d ~ p(d | past frames), d the scaled difference, as an EDM diffusion (Karras et al. 2022; Price et al. 2025).

    The network sees past frames beside c_in (d + sigma eps). Training levels: log sigma normal with `level_mean` and
    `level_std` between sigma_min and sigma_max. `last_steps` lets the number of steps fall along the rollout.
    Good values: sigma_max 20; sigma_min at the size of the error that a good forecast has, 1e-3 where the dynamics are
    deterministic; level_mean about log 0.1 there, as the answer is known well below the size of d; steps 8.
    """

    def loss(self, dynamics: Dynamics, window: Frames, conditions: Tensor, seed: int) -> Tensor:
        """(sigma^2 + 1) / sigma^2 * mean (D - d)^2, (batch,): unit weight on the network's own target."""
        seen, coming = window[:, : self.history], window[:, self.history]
        d = dynamics.target(seen[:, -1], coming)
        levels = NoiseLevels(self.level_mean, self.level_std, self.sigma_min, self.sigma_max)
        sigma = levels.draw(len(d), derive(seed, Purpose.LEVEL)).to(d)
        eps = normal((derive(seed, Purpose.STEP),), d.shape, dtype=d.dtype)[0].to(d.device)
        denoised = self.denoised(dynamics, stacked(seen), conditions, d + broadcast(sigma, d) * eps, sigma)
        return (1.0 + sigma**-2) * (denoised - d).flatten(1).square().mean(1)

    def denoised(self, dynamics: Dynamics, past: Tensor, conditions: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """E[d | x = d + sigma eps, past]: Karras et al. 2022, table 1, for data of unit variance."""
        level = broadcast(sigma, x)
        total = (level**2 + 1.0).sqrt()
        output = dynamics((past, x / total), labels(sigma.to(x).log() / 4, conditions))
        return x / total**2 + (level / total) * output
