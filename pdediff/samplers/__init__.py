"""Samplers: each compiles to a plan of a few linear steps, and one runner folds every plan."""

from pdediff.samplers.ab_pc import PC
from pdediff.samplers.bands import band_of
from pdediff.samplers.brownian import BrownianPath
from pdediff.samplers.ddim import DDIM
from pdediff.samplers.default import Default
from pdediff.samplers.dpm_solver_pp import DPMSolverPP
from pdediff.samplers.field import Diffusion, Parameterisation, field, weights
from pdediff.samplers.gaussian import Response, moments, response
from pdediff.samplers.grids import blended, edm_grid, equal_mass, uniform_lambda, uniform_phi, uniform_u
from pdediff.samplers.kernels import KERNELS, Kernel
from pdediff.samplers.named import catalogue, named, names
from pdediff.samplers.pilot import pilot_grid
from pdediff.samplers.plan import STATE, Plan, Sampler, check_levels
from pdediff.samplers.runner import Hook, Observer, Walk, run
from pdediff.samplers.sample import Conditional, gaussian_start, sample
from pdediff.samplers.steps import Band, Eval, Kick, Lin

__all__ = [
    "DDIM",
    "KERNELS",
    "PC",
    "STATE",
    "Band",
    "BrownianPath",
    "Conditional",
    "DPMSolverPP",
    "Default",
    "Diffusion",
    "Eval",
    "Hook",
    "Kernel",
    "Kick",
    "Lin",
    "Observer",
    "Parameterisation",
    "Plan",
    "Response",
    "Sampler",
    "Walk",
    "band_of",
    "blended",
    "catalogue",
    "check_levels",
    "edm_grid",
    "equal_mass",
    "field",
    "gaussian_start",
    "moments",
    "named",
    "names",
    "pilot_grid",
    "response",
    "run",
    "sample",
    "uniform_lambda",
    "uniform_phi",
    "uniform_u",
    "weights",
]
