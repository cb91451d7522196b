"""What is seen of a field: operators in physical units, noise models, and their pairing with data."""

from pdediff.observe.observation import GaussianNoise, Observation
from pdediff.observe.operator import Composed, Differentiable, Operator, Scaling
from pdediff.observe.sensors import PointSensors, mask_sensors, subsample

__all__ = [
    "Composed",
    "Differentiable",
    "GaussianNoise",
    "Observation",
    "Operator",
    "PointSensors",
    "Scaling",
    "mask_sensors",
    "subsample",
]
