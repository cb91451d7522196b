"""Shapes of the arrays that metrics speak about; NumPy, in the units of the field unless a function says otherwise."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped

Draws = Float[np.ndarray, "draw *space"]
Grid = Float[np.ndarray, "*space"]
PerDraw = Float[np.ndarray, "draw"]
Vector = Shaped[np.ndarray, "_"]  # any length: several of them need not agree
PerCase = Float[np.ndarray, "case *rest"]
Matrix = Float[np.ndarray, "row column"]
