"""Tuners: plans made for one prior, on a few noises whose flow is known."""

from pdediff.samplers.tuning.engine import Tuned
from pdediff.samplers.tuning.nodes import search_nodes
from pdediff.samplers.tuning.parameters import fit
from pdediff.samplers.tuning.picker import pick
from pdediff.samplers.tuning.pilots import Pilots
from pdediff.samplers.tuning.race import tune
from pdediff.samplers.tuning.weights import fit_weights

__all__ = ["Pilots", "Tuned", "fit", "fit_weights", "pick", "search_nodes", "tune"]
