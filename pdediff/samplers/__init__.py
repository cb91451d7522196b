"""Samplers: each compiles to a plan of a few linear steps, and one runner folds every plan."""

from pdediff.samplers.ab_pc import PC
from pdediff.samplers.adaptive import AdaptiveDPMSolver
from pdediff.samplers.bands import band_of
from pdediff.samplers.bdia import BDIA
from pdediff.samplers.brownian import BrownianPath
from pdediff.samplers.dc_solver import DCSolver
from pdediff.samplers.ddim import DDIM
from pdediff.samplers.default import Default
from pdediff.samplers.deis import DEIS
from pdediff.samplers.dpm_solver import DPMSolver, fast_plan
from pdediff.samplers.dpm_solver_pp import DPMSolverPP
from pdediff.samplers.dpm_solver_pp_single import DPMSolverPPSingle
from pdediff.samplers.dpm_solver_v3 import DPMSolverV3, band_variances
from pdediff.samplers.epd import EPD
from pdediff.samplers.field import Diffusion, Parameterisation, field, weights
from pdediff.samplers.gaussian import Response, moments, response
from pdediff.samplers.ghvb import GHVB
from pdediff.samplers.grids import blended, edm_grid, equal_mass, uniform_lambda, uniform_phi, uniform_u
from pdediff.samplers.heun import EDMHeun
from pdediff.samplers.invert import inverse_plan, invert
from pdediff.samplers.kernels import KERNELS, Kernel
from pdediff.samplers.likelihood import LogDensity, log_prob
from pdediff.samplers.mala import mala
from pdediff.samplers.named import catalogue, named, names
from pdediff.samplers.pilot import pilot_grid
from pdediff.samplers.plan import STATE, Plan, Sampler, check_levels
from pdediff.samplers.pndm import IPNDM, PNDM
from pdediff.samplers.runge_kutta import RungeKutta
from pdediff.samplers.runner import Hook, Observer, Walk, run
from pdediff.samplers.sa_solver import SASolver
from pdediff.samplers.sample import Conditional, gaussian_start, sample
from pdediff.samplers.score_sde import ScoreSDE
from pdediff.samplers.spectral_noise import SpectralSDE
from pdediff.samplers.steps import Band, Eval, Kick, Lin
from pdediff.samplers.tuning import Pilots, Tuned, fit, fit_weights, pick, search_nodes, tune
from pdediff.samplers.unipc import UniPC

__all__ = [
    "BDIA",
    "DDIM",
    "DEIS",
    "EPD",
    "GHVB",
    "IPNDM",
    "KERNELS",
    "PC",
    "PNDM",
    "STATE",
    "AdaptiveDPMSolver",
    "Band",
    "BrownianPath",
    "Conditional",
    "DCSolver",
    "DPMSolver",
    "DPMSolverPP",
    "DPMSolverPPSingle",
    "DPMSolverV3",
    "Default",
    "Diffusion",
    "EDMHeun",
    "Eval",
    "Hook",
    "Kernel",
    "Kick",
    "Lin",
    "LogDensity",
    "Observer",
    "Parameterisation",
    "Pilots",
    "Plan",
    "Response",
    "RungeKutta",
    "SASolver",
    "Sampler",
    "ScoreSDE",
    "SpectralSDE",
    "Tuned",
    "UniPC",
    "Walk",
    "band_of",
    "band_variances",
    "blended",
    "catalogue",
    "check_levels",
    "edm_grid",
    "equal_mass",
    "fast_plan",
    "field",
    "fit",
    "fit_weights",
    "gaussian_start",
    "inverse_plan",
    "invert",
    "log_prob",
    "mala",
    "moments",
    "named",
    "names",
    "pick",
    "pilot_grid",
    "response",
    "run",
    "sample",
    "search_nodes",
    "tune",
    "uniform_lambda",
    "uniform_phi",
    "uniform_u",
    "weights",
]
