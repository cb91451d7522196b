"""Samplers whose published form does not converge, for comparison; no preset names them, nothing else imports them.

Each is nonlinear in the state and therefore no plan: it is called with a denoiser, a start and the levels.
"""

from pdediff.samplers.experimental.dual_fast import DualFast
from pdediff.samplers.experimental.evodiff import EVODiff
from pdediff.samplers.experimental.lml import LML
from pdediff.samplers.experimental.sada import SADA, SADAResult
from pdediff.samplers.experimental.time_shift import TimeShift, noise_level

__all__ = ["LML", "SADA", "DualFast", "EVODiff", "SADAResult", "TimeShift", "noise_level"]
