"""Inverse problems with priors in closed form: no network, no data set; exact posteriors of the linear ones."""

from pdediff.stages.problems.advection_diffusion2d import AdvectionDiffusion2d
from pdediff.stages.problems.base import Case, InverseProblem, Layout, Setup, setup_of
from pdediff.stages.problems.burgers1d import Burgers1d
from pdediff.stages.problems.darcy2d import Darcy2d
from pdediff.stages.problems.heat1d import Heat1d
from pdediff.stages.problems.helmholtz2d import Helmholtz2d
from pdediff.stages.problems.linear import ExactPosterior, exact_posterior, exact_std
from pdediff.stages.problems.navier_stokes2d import NavierStokes2d
from pdediff.stages.problems.poisson2d import Poisson2d

__all__ = [
    "AdvectionDiffusion2d",
    "Burgers1d",
    "Case",
    "Darcy2d",
    "ExactPosterior",
    "Heat1d",
    "Helmholtz2d",
    "InverseProblem",
    "Layout",
    "NavierStokes2d",
    "Poisson2d",
    "Setup",
    "exact_posterior",
    "exact_std",
    "setup_of",
]
