"""Equations: one file per PDE, each draws problems, solves them and judges solutions."""

from pdediff.pdes.base import PDE, Problem, Variable, check
from pdediff.pdes.darcy import Darcy
from pdediff.pdes.kolmogorov import KolmogorovFlow
from pdediff.pdes.ks import KuramotoSivashinsky

__all__ = ["PDE", "Darcy", "KolmogorovFlow", "KuramotoSivashinsky", "Problem", "Variable", "check"]
