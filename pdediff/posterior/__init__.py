"""Posterior samplers: guidance that runs under every sampler, weighted particles, optimisers, and exact references."""

from pdediff.posterior.adapted import FPS, AdaptedChain, AdaptedSMC, Coordinates, MCGDiff
from pdediff.posterior.afdps import AFDPS
from pdediff.posterior.base import Draws, Guidance, GuidedDenoiser, Posterior, Wrapped, merge
from pdediff.posterior.calibrated import CalibratedGuidance
from pdediff.posterior.chains import Chains, Likelihood
from pdediff.posterior.classifier_free import Amplified, ClassifierFree
from pdediff.posterior.code_editing import CODE
from pdediff.posterior.collectors import COLLECTORS, Collector, Snapshot, ancestors_at, genealogy_variance
from pdediff.posterior.conditioning import Conditioning, gaussian_log_density
from pdediff.posterior.convergence import chain_ess, split_r_hat
from pdediff.posterior.d_flow import DFlow
from pdediff.posterior.daps import DAPS
from pdediff.posterior.ddnm import DDNM
from pdediff.posterior.decoupled import Decoupled
from pdediff.posterior.diffpir import DiffPIR
from pdediff.posterior.diffusion_pde import DiffusionPDE
from pdediff.posterior.dps import DPS
from pdediff.posterior.eci import ECI
from pdediff.posterior.eki import EKI, ESMDA
from pdediff.posterior.enkg import EnKG
from pdediff.posterior.exact import ExactGaussian, ExactMixture
from pdediff.posterior.fk_steering import FKSteering, SteeredChain
from pdediff.posterior.fkc import FKC
from pdediff.posterior.flowchef import FlowChef
from pdediff.posterior.fundps import FunDPS
from pdediff.posterior.guided_sampling import GuidedSampling, guided_start
from pdediff.posterior.hard_constraint import HardConstraint
from pdediff.posterior.hybrid import HybridGuidance
from pdediff.posterior.island import Island
from pdediff.posterior.islands import Islands, between, together
from pdediff.posterior.jfps import JFPS
from pdediff.posterior.kalman_smoother import Smoothed, kalman_smoother
from pdediff.posterior.keyed import Keyed
from pdediff.posterior.kriging import Kriging
from pdediff.posterior.latent import Latent, Reference, likelihood_gradient, log_likelihood, log_reference, root
from pdediff.posterior.lbfgs import LBFGS
from pdediff.posterior.lgd import LGD
from pdediff.posterior.mala import PreconditionedMALA
from pdediff.posterior.map_estimate import MAP, posterior_mode
from pdediff.posterior.mmps import MMPS
from pdediff.posterior.particle_filter import BootstrapChain, BootstrapFilter, Filtered
from pdediff.posterior.pcn import PCN
from pdediff.posterior.physics import with_residual
from pdediff.posterior.pigdm import PiGDM
from pdediff.posterior.pnp_dm import PnPDM
from pdediff.posterior.red_diff import REDDiff
from pdediff.posterior.red_diff_whitened import WhitenedREDDiff
from pdediff.posterior.repaint import RePaint
from pdediff.posterior.resampling import (
    SCHEMES,
    effective_sample_size,
    multinomial,
    residual,
    ssp,
    stratified,
    systematic,
)
from pdediff.posterior.rollover import RolloverBudget, flow_velocity, score_from_velocity, stochastic_flow_step
from pdediff.posterior.sda import SDA
from pdediff.posterior.smc import FeynmanKac, Particles, smc
from pdediff.posterior.state_space import StateSpace
from pdediff.posterior.stsl import STSL
from pdediff.posterior.super_diff import SuperDiff, Superposed
from pdediff.posterior.tds import TDS, TDSChain
from pdediff.posterior.tilt import LinearTilt, Tilt, likelihood_tilt
from pdediff.posterior.tmpd import TMPD
from pdediff.posterior.tsdiff import TSDiff
from pdediff.posterior.twisted import TwistedChain, TwistedSMC
from pdediff.posterior.weighted_sde import WeightedChain, WeightedSDE
from pdediff.posterior.windows import Windowed

__all__ = [
    "AFDPS",
    "CODE",
    "COLLECTORS",
    "DAPS",
    "DDNM",
    "DPS",
    "ECI",
    "EKI",
    "ESMDA",
    "FKC",
    "FPS",
    "JFPS",
    "LBFGS",
    "LGD",
    "MAP",
    "MMPS",
    "PCN",
    "SCHEMES",
    "SDA",
    "STSL",
    "TDS",
    "TMPD",
    "AdaptedChain",
    "AdaptedSMC",
    "Amplified",
    "BootstrapChain",
    "BootstrapFilter",
    "CalibratedGuidance",
    "Chains",
    "ClassifierFree",
    "Collector",
    "Conditioning",
    "Coordinates",
    "DFlow",
    "Decoupled",
    "DiffPIR",
    "DiffusionPDE",
    "Draws",
    "EnKG",
    "ExactGaussian",
    "ExactMixture",
    "FKSteering",
    "FeynmanKac",
    "Filtered",
    "FlowChef",
    "FunDPS",
    "Guidance",
    "GuidedDenoiser",
    "GuidedSampling",
    "HardConstraint",
    "HybridGuidance",
    "Island",
    "Islands",
    "Keyed",
    "Kriging",
    "Latent",
    "Likelihood",
    "LinearTilt",
    "MCGDiff",
    "Particles",
    "PiGDM",
    "PnPDM",
    "Posterior",
    "PreconditionedMALA",
    "REDDiff",
    "RePaint",
    "Reference",
    "RolloverBudget",
    "Smoothed",
    "Snapshot",
    "StateSpace",
    "SteeredChain",
    "SuperDiff",
    "Superposed",
    "TDSChain",
    "TSDiff",
    "Tilt",
    "TwistedChain",
    "TwistedSMC",
    "WeightedChain",
    "WeightedSDE",
    "WhitenedREDDiff",
    "Windowed",
    "Wrapped",
    "ancestors_at",
    "between",
    "chain_ess",
    "effective_sample_size",
    "flow_velocity",
    "gaussian_log_density",
    "genealogy_variance",
    "guided_start",
    "kalman_smoother",
    "likelihood_gradient",
    "likelihood_tilt",
    "log_likelihood",
    "log_reference",
    "merge",
    "multinomial",
    "posterior_mode",
    "residual",
    "root",
    "score_from_velocity",
    "smc",
    "split_r_hat",
    "ssp",
    "stochastic_flow_step",
    "stratified",
    "systematic",
    "together",
    "with_residual",
]
