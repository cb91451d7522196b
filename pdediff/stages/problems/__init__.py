"""Inverse problems with priors in closed form: no network, no data set; exact posteriors of the linear ones."""

from pdediff.stages.problems.advection_diffusion2d import AdvectionDiffusion2d
from pdediff.stages.problems.advection_mixture2d import AdvectionMixture2d
from pdediff.stages.problems.base import Case, InverseProblem, Layout, Setup, setup_of
from pdediff.stages.problems.born2d import Born2d
from pdediff.stages.problems.burgers1d import Burgers1d
from pdediff.stages.problems.burgers1d_space_time import Burgers1dSpaceTime
from pdediff.stages.problems.darcy2d import Darcy2d
from pdediff.stages.problems.darcy_binary2d import DarcyBinary2d
from pdediff.stages.problems.exact import exact_moments, exact_posterior, exact_std
from pdediff.stages.problems.heat1d import Heat1d
from pdediff.stages.problems.helmholtz2d import Helmholtz2d
from pdediff.stages.problems.helmholtz_medium2d import HelmholtzMedium2d
from pdediff.stages.problems.linear import ExactPosterior
from pdediff.stages.problems.lorenz63 import Lorenz63Series
from pdediff.stages.problems.mixture import ExactMixturePosterior
from pdediff.stages.problems.navier_stokes2d import NavierStokes2d
from pdediff.stages.problems.navier_stokes2d_re200 import NavierStokes2dRe200
from pdediff.stages.problems.poisson2d import Poisson2d

__all__ = [
    "AdvectionDiffusion2d",
    "AdvectionMixture2d",
    "Born2d",
    "Burgers1d",
    "Burgers1dSpaceTime",
    "Case",
    "Darcy2d",
    "DarcyBinary2d",
    "ExactMixturePosterior",
    "ExactPosterior",
    "Heat1d",
    "Helmholtz2d",
    "HelmholtzMedium2d",
    "InverseProblem",
    "Layout",
    "Lorenz63Series",
    "NavierStokes2d",
    "NavierStokes2dRe200",
    "Poisson2d",
    "Setup",
    "exact_moments",
    "exact_posterior",
    "exact_std",
    "setup_of",
]
