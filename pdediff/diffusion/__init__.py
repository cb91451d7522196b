"""Noise levels, noise fields, denoisers with calibrated errors, and the exact priors that test everything else."""

from pdediff.diffusion.calibration import CalibratedError, held_out_errors, low_rank, measure, stationary
from pdediff.diffusion.covariance import (
    Covariance,
    DenseCovariance,
    DiagonalCovariance,
    FourierCovariance,
    LowRankCovariance,
    conjugate_gradients,
    isotropic,
    solve_sum,
)
from pdediff.diffusion.denoiser import Denoiser, ShapedByMean, broadcast
from pdediff.diffusion.edm import NetworkDenoiser, precondition
from pdediff.diffusion.gaussian import GaussianPrior
from pdediff.diffusion.gaussian_field import GaussianFieldPrior, matern_field
from pdediff.diffusion.gaussian_mixture import GaussianMixturePrior
from pdediff.diffusion.local_scale import LocalScale, measure_scale
from pdediff.diffusion.loss import DenoisingLoss, NoiseLevels
from pdediff.diffusion.noise import GaussianRandomField, NoiseField, WhiteNoise

__all__ = [
    "CalibratedError",
    "Covariance",
    "Denoiser",
    "DenoisingLoss",
    "DenseCovariance",
    "DiagonalCovariance",
    "FourierCovariance",
    "GaussianFieldPrior",
    "GaussianMixturePrior",
    "GaussianPrior",
    "GaussianRandomField",
    "LocalScale",
    "LowRankCovariance",
    "NetworkDenoiser",
    "NoiseField",
    "NoiseLevels",
    "ShapedByMean",
    "WhiteNoise",
    "broadcast",
    "conjugate_gradients",
    "held_out_errors",
    "isotropic",
    "low_rank",
    "matern_field",
    "measure",
    "measure_scale",
    "precondition",
    "solve_sum",
    "stationary",
]
