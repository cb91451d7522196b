"""Posterior samplers: guidance that runs under every sampler, weighted particles, optimisers, and exact references."""

from pdediff.posterior.base import Draws, Guidance, GuidedDenoiser, Posterior, merge
from pdediff.posterior.calibrated import CalibratedGuidance
from pdediff.posterior.conditioning import Conditioning, gaussian_log_density
from pdediff.posterior.dps import DPS
from pdediff.posterior.guided_sampling import GuidedSampling, guided_start
from pdediff.posterior.kriging import Kriging
from pdediff.posterior.red_diff import REDDiff
from pdediff.posterior.resampling import effective_sample_size, systematic
from pdediff.posterior.smc import FeynmanKac, Particles, smc
from pdediff.posterior.twisted import TwistedChain, TwistedSMC

__all__ = [
    "DPS",
    "CalibratedGuidance",
    "Conditioning",
    "Draws",
    "FeynmanKac",
    "Guidance",
    "GuidedDenoiser",
    "GuidedSampling",
    "Kriging",
    "Particles",
    "Posterior",
    "REDDiff",
    "TwistedChain",
    "TwistedSMC",
    "effective_sample_size",
    "gaussian_log_density",
    "guided_start",
    "merge",
    "smc",
    "systematic",
]
