"""What is seen of a field: operators in physical units, noise models, and their pairing with data."""

from pdediff.observe.along_axis import AlongAxis, boundary_trace, slices, window, window_mean
from pdediff.observe.block_average import BlockAverage
from pdediff.observe.channels import Selection
from pdediff.observe.convolution import Convolution, GaussianBlur, LowPass
from pdediff.observe.derived import Saturation, Speed, Vorticity
from pdediff.observe.gaussian_noise import (
    CorrelatedGaussianNoise,
    GaussianNoise,
    Whitening,
    exponential,
    squared_exponential,
)
from pdediff.observe.grid import Grid
from pdediff.observe.interpolation import point_sensors
from pdediff.observe.line_integrals import line_integrals, radon
from pdediff.observe.log_normal_noise import LogNormalNoise
from pdediff.observe.noise import Noise
from pdediff.observe.observation import Observation
from pdediff.observe.operator import Composed, Differentiable, Linear, Operator, Scaling
from pdediff.observe.poisson_noise import PoissonNoise
from pdediff.observe.sensors import PointSensors, mask_sensors, subsample
from pdediff.observe.solution import BlackBox, Solution
from pdediff.observe.sparse_rows import SparseRows
from pdediff.observe.stack import Flatten, Stack
from pdediff.observe.student_t_noise import StudentTNoise
from pdediff.observe.svd import SVD, rows_of, svd

__all__ = [
    "SVD",
    "AlongAxis",
    "BlackBox",
    "BlockAverage",
    "Composed",
    "Convolution",
    "CorrelatedGaussianNoise",
    "Differentiable",
    "Flatten",
    "GaussianBlur",
    "GaussianNoise",
    "Grid",
    "Linear",
    "LogNormalNoise",
    "LowPass",
    "Noise",
    "Observation",
    "Operator",
    "PointSensors",
    "PoissonNoise",
    "Saturation",
    "Scaling",
    "Selection",
    "Solution",
    "SparseRows",
    "Speed",
    "Stack",
    "StudentTNoise",
    "Vorticity",
    "Whitening",
    "boundary_trace",
    "exponential",
    "line_integrals",
    "mask_sensors",
    "point_sensors",
    "radon",
    "rows_of",
    "slices",
    "squared_exponential",
    "subsample",
    "svd",
    "window",
    "window_mean",
]
