"""Equations: one file per PDE, each draws problems, solves them and judges solutions."""

from pdediff.pdes.advection import Advection
from pdediff.pdes.advection_diffusion import AdvectionDiffusion
from pdediff.pdes.allen_cahn import AllenCahn
from pdediff.pdes.base import PDE, Clock, Problem, Variable, check, check_variables
from pdediff.pdes.burgers import Burgers
from pdediff.pdes.burgers_shock import BurgersShock
from pdediff.pdes.chromatography import Chromatography
from pdediff.pdes.darcy import Darcy
from pdediff.pdes.euler import Euler
from pdediff.pdes.fisher import FisherKPP
from pdediff.pdes.gray_scott import GrayScott
from pdediff.pdes.heat import Heat
from pdediff.pdes.helmholtz import Helmholtz
from pdediff.pdes.helmholtz_scattering import HelmholtzScattering
from pdediff.pdes.kdv import KortewegDeVries
from pdediff.pdes.kolmogorov import KolmogorovFlow
from pdediff.pdes.ks import KuramotoSivashinsky
from pdediff.pdes.lorenz import Lorenz63, Lorenz96
from pdediff.pdes.navier_stokes import NavierStokes
from pdediff.pdes.poisson import Poisson
from pdediff.pdes.shallow_water import ShallowWater
from pdediff.pdes.wave import AcousticWave

__all__ = [
    "PDE",
    "AcousticWave",
    "Advection",
    "AdvectionDiffusion",
    "AllenCahn",
    "Burgers",
    "BurgersShock",
    "Chromatography",
    "Clock",
    "Darcy",
    "Euler",
    "FisherKPP",
    "GrayScott",
    "Heat",
    "Helmholtz",
    "HelmholtzScattering",
    "KolmogorovFlow",
    "KortewegDeVries",
    "KuramotoSivashinsky",
    "Lorenz63",
    "Lorenz96",
    "NavierStokes",
    "Poisson",
    "Problem",
    "ShallowWater",
    "Variable",
    "check",
    "check_variables",
]
