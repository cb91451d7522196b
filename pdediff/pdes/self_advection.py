"""The nonlinear term that Burgers, Korteweg-de Vries and Kuramoto-Sivashinsky have in common."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pdediff.pdes.modes import Modes, spare


def self_advection(modes: Modes) -> Callable[[Tensor], Tensor]:
    """-(u^2 / 2)_x = -u u_x as a map of spectra, in one dimension, two transforms."""
    flux = modes.weigh(-0.5j * modes.k[0])

    def rate(v: Tensor) -> Tensor:
        u = modes.to_space(v)
        return flux(torch.mul(u, u, out=spare(u)))

    return rate
